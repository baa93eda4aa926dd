/* Makes system calls on files below one directory fail, return short, or kill the process.

   LD_PRELOAD loads it into the server.  The test and the server share one mapped file, struct
   control, so that the test arms it between two sessions of a running server, or for a process
   that it is about to fork.  It can also record what a session changes, in order, for
   tests/faults/power.py.

   A call counts if it belongs to one of the classes in the mask, and the file or a name that it
   is given is below control->root.  The functions of libc that are replaced are those by which
   Python and popserv/_speedups.c use the file system. */

#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

/* The order is that of CLASSES in tests/faults/shim.py. */
enum class {
    OPEN = 1, READ = 2, WRITE = 4, SYNC = 8, RENAME = 16, LINK = 32, UNLINK = 64, STAT = 128,
    LOCK = 256, TRUNCATE = 512, MKDIR = 1024, LISTING = 2048, ATTRIBUTES = 4096,
    CLOSE = 8192, CONNECT = 16384, SEND = 32768, RECEIVE = 65536,
};

enum { CLASSES = 17 };

enum { SHORT = -1, KILL = -2 };

/* The layout is that of CONTROL in tests/faults/shim.py. */
struct control {
    uint32_t mask;          /* the classes that count; 0: nothing is done */
    uint32_t number;        /* the call that fails, from 1; 0: none */
    uint32_t lasts;         /* whether all later ones fail as well */
    int32_t action;         /* an errno, SHORT or KILL */
    uint32_t records;       /* whether changes are recorded */
    _Atomic uint32_t count; /* the calls until now */
    _Atomic uint32_t hits;  /* the faults until now */
    _Atomic uint32_t counts[CLASSES]; /* the calls of each class until now */
    char root[500];         /* the directory, or a file */
    char last[1024];        /* the call that failed last, for messages */
};

/* The layout is that of RECORD in tests/faults/power.py; the names and the data follow. */
struct record {
    uint32_t kind, first, second, data;
    int64_t offset;
};

enum { WROTE, TRUNCATED, RENAMED, LINKED, REMOVED, MADE_DIRECTORY, SYNCED, CREATED, TIMES, REPLIED };

static struct control *control;
static int log_fd = -1;
static pthread_mutex_t recording = PTHREAD_MUTEX_INITIALIZER;

__attribute__((constructor)) static void map(void)
{
    const char *path = getenv("POPSERV_FAULTS");
    char name[PATH_MAX];
    int fd = path ? (int)syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC, 0) : -1;

    if (fd < 0)
        return;
    control = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    syscall(SYS_close, fd);
    if (control == MAP_FAILED)
        abort();
    snprintf(name, sizeof name, "%s.log", path);
    log_fd = (int)syscall(SYS_openat, AT_FDCWD, name, O_RDWR | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
}

/* Write the path of a descriptor, of a name below one, or of a name; return its length. */
static size_t resolve(int dir, const char *name, char path[PATH_MAX])
{
    char link[40];
    ssize_t length = 0;
    int number;

    if (name && sscanf(name, "/proc/self/fd/%d", &number) == 1) {
        dir = number;
        name = NULL;
    }
    if (name && name[0] == '/') {
        snprintf(path, PATH_MAX, "%s", name);
        return strlen(path);
    }
    if (dir == AT_FDCWD)
        snprintf(link, sizeof link, "/proc/self/cwd");
    else
        snprintf(link, sizeof link, "/proc/self/fd/%d", dir);
    length = syscall(SYS_readlinkat, AT_FDCWD, link, path, PATH_MAX - 1);
    if (length < 0)
        length = 0;
    path[length] = 0;
    if (name && name[0] && strcmp(name, ".") != 0)
        length += snprintf(path + length, PATH_MAX - (size_t)length, "/%s", name);
    return (size_t)length;
}

/* Write the path that a UNIX socket is connected to; it is empty for any other. */
static void resolve_peer(int fd, char path[PATH_MAX])
{
    struct sockaddr_un peer = {0};
    socklen_t size = sizeof peer;

    path[0] = 0;
    if (getpeername(fd, (struct sockaddr *)&peer, &size) == 0 && peer.sun_family == AF_UNIX)
        snprintf(path, PATH_MAX, "%.*s", (int)sizeof peer.sun_path, peer.sun_path);
}

static int is_below(const char *path)
{
    size_t length = strlen(control->root);

    return strncmp(path, control->root, length) == 0 && (!path[length] || strchr("/. ", path[length]));
}

/* Count a call; return 0, an errno or SHORT, or do not return. */
static int fault(enum class class, const char *function, int dir, const char *name)
{
    char path[PATH_MAX];
    uint32_t count;
    int saved = errno;

    if (!control || !(control->mask & class))
        return 0;
    if (class & (SEND | RECEIVE))
        resolve_peer(dir, path);
    else
        resolve(dir, name, path);
    errno = saved;
    if (!is_below(path))
        return 0;
    atomic_fetch_add(&control->counts[__builtin_ctz(class)], 1);
    count = atomic_fetch_add(&control->count, 1) + 1;
    if (!control->number || count < control->number || (count > control->number && !control->lasts))
        return 0;
    atomic_fetch_add(&control->hits, 1);
    snprintf(control->last, sizeof control->last, "%s %.900s", function, path);
    if (control->action == KILL) {
        syscall(SYS_kill, syscall(SYS_getpid), SIGKILL);
        for (;;)
            pause();
    }
    return control->action;
}

#define REAL(name) __extension__({ \
    static __typeof__(&name) real; \
    if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name); \
    real; })

#define FAIL_IF(class, dir, name) do { \
    int number = fault(class, __func__, dir, name); \
    if (number > 0) { errno = number; return -1; } } while (0)

/* Whether this call is recorded, which does not change until its end. */
static __thread int is_recorded;

static void begin(void)
{
    is_recorded = control && control->records;
    if (is_recorded)
        pthread_mutex_lock(&recording);
}

/* Record what has succeeded, if it is below the root. */
static void end(int succeeded, uint32_t kind, const char *first, const char *second,
                const void *data, size_t size, int64_t offset)
{
    int saved = errno;

    if (!is_recorded)
        return;
    is_recorded = 0;
    if (succeeded && (kind == REPLIED || is_below(first) || is_below(second))) {
        struct record head = {kind, (uint32_t)strlen(first), (uint32_t)strlen(second),
                              (uint32_t)size, offset};
        struct iovec parts[] = {{&head, sizeof head}, {(void *)first, head.first},
                                {(void *)second, head.second}, {(void *)data, size}};
        if (syscall(SYS_writev, log_fd, parts, 4) < 0)
            abort();
    }
    pthread_mutex_unlock(&recording);
    errno = saved;
}

/* open */

static int open_at(const char *function, int dir, const char *name, int flags, mode_t mode)
{
    char path[PATH_MAX];
    int number = fault(OPEN, function, dir, name), fd, existed = 1;

    if (number > 0) {
        errno = number;
        return -1;
    }
    begin();
    if (is_recorded) {
        resolve(dir, name, path);
        existed = !(flags & O_CREAT) || syscall(SYS_faccessat, AT_FDCWD, path, F_OK) == 0;
    }
    fd = (int)syscall(SYS_openat, dir, name, flags, mode);
    if (is_recorded) {
        if ((flags & O_TMPFILE) == O_TMPFILE && fd >= 0) {
            resolve(fd, NULL, path);
            existed = 0;
        }
        if (!existed)
            end(fd >= 0, CREATED, path, "", "", 0, 0);
        else
            end(fd >= 0 && flags & O_TRUNC, TRUNCATED, path, "", "", 0, 0);
    }
    return fd;
}

#define MODE(flags) __extension__({ \
    mode_t mode = 0; \
    if ((flags) & O_CREAT || ((flags) & O_TMPFILE) == O_TMPFILE) { \
        va_list rest; \
        va_start(rest, flags); \
        mode = va_arg(rest, mode_t); \
        va_end(rest); \
    } \
    mode; })

int open(const char *name, int flags, ...)
{
    return open_at(__func__, AT_FDCWD, name, flags, MODE(flags));
}

int open64(const char *name, int flags, ...)
{
    return open_at(__func__, AT_FDCWD, name, flags, MODE(flags));
}

int openat(int dir, const char *name, int flags, ...)
{
    return open_at(__func__, dir, name, flags, MODE(flags));
}

int openat64(int dir, const char *name, int flags, ...)
{
    return open_at(__func__, dir, name, flags, MODE(flags));
}

long syscall(long number, ...)
{
    static long (*real)(long, ...);
    long a[6];
    va_list rest;

    va_start(rest, number);
    for (int i = 0; i < 6; i++)
        a[i] = va_arg(rest, long);
    va_end(rest);
    if (!real)
        real = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
    if (number == SYS_openat2) {
        int error = fault(OPEN, "openat2", (int)a[0], (const char *)a[1]);
        if (error > 0) {
            errno = error;
            return -1;
        }
    }
    return real(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

DIR *opendir(const char *name)
{
    int number = fault(OPEN, __func__, AT_FDCWD, name);

    if (number > 0) {
        errno = number;
        return NULL;
    }
    return REAL(opendir)(name);
}

/* close: on Linux the descriptor is closed whatever it returns */

int close(int fd)
{
    int number = fault(CLOSE, __func__, fd, NULL), result = REAL(close)(fd);

    if (number > 0) {
        errno = number;
        return -1;
    }
    return result;
}

/* read */

#define READS(real_call) do { \
    int number = fault(READ, __func__, fd, NULL); \
    if (number > 0) { errno = number; return -1; } \
    if (number == SHORT && size > 1) size /= 2; \
    return real_call; } while (0)

ssize_t read(int fd, void *to, size_t size)
{
    READS(REAL(read)(fd, to, size));
}

ssize_t pread64(int fd, void *to, size_t size, off64_t at)
{
    READS(REAL(pread64)(fd, to, size, at));
}

/* For a short read, the first half of the first part. */
#define READS_PARTS(real_call) do { \
    struct iovec first; \
    int number = fault(READ, __func__, fd, NULL); \
    if (number > 0) { errno = number; return -1; } \
    if (number == SHORT && parts > 0 && to[0].iov_len > 1) { \
        first = (struct iovec){to[0].iov_base, to[0].iov_len / 2}; \
        to = &first; \
        parts = 1; \
    } \
    return real_call; } while (0)

ssize_t readv(int fd, const struct iovec *to, int parts)
{
    READS_PARTS(REAL(readv)(fd, to, parts));
}

ssize_t preadv64v2(int fd, const struct iovec *to, int parts, off64_t at, int flags)
{
    READS_PARTS(REAL(preadv64v2)(fd, to, parts, at, flags));
}

/* write */

static ssize_t write_at(const char *function, int fd, const void *from, size_t size, off64_t at)
{
    char path[PATH_MAX] = "";
    int number = fault(WRITE, function, fd, NULL);
    ssize_t written;

    if (number > 0) {
        errno = number;
        return -1;
    }
    if (number == SHORT && size > 1)
        size /= 2;
    begin();
    written = at < 0 ? REAL(write)(fd, from, size) : REAL(pwrite64)(fd, from, size, at);
    if (is_recorded) {
        int saved = errno;
        resolve(fd, NULL, path);
        if (at < 0)
            at = lseek(fd, 0, SEEK_CUR) - written;
        errno = saved;
    }
    end(written > 0, WROTE, path, "", from, written > 0 ? (size_t)written : 0, at);
    return written;
}

ssize_t write(int fd, const void *from, size_t size)
{
    return write_at(__func__, fd, from, size, -1);
}

ssize_t pwrite64(int fd, const void *from, size_t size, off64_t at)
{
    return write_at(__func__, fd, from, size, at);
}

/* popserv writes sockets with it, and no files. */
ssize_t writev(int fd, const struct iovec *from, int parts)
{
    FAIL_IF(WRITE, fd, NULL);
    return REAL(writev)(fd, from, parts);
}

/* What a client is told is recorded before it is sent: the test may read the records as soon as the
   client knows it. */
ssize_t send(int fd, const void *from, size_t size, int flags)
{
    int number = fault(SEND, __func__, fd, NULL);

    if (number > 0) {
        errno = number;
        return -1;
    }
    if (number == SHORT && size > 1)
        size /= 2;
    begin();
    end(1, REPLIED, "", "", from, size, 0);
    return REAL(send)(fd, from, size, flags);
}

/* The sockets of libpq, which are UNIX sockets here. */

int connect(int fd, const struct sockaddr *address, socklen_t size)
{
    const struct sockaddr_un *peer = (const struct sockaddr_un *)address;

    if (size > sizeof peer->sun_family && peer->sun_family == AF_UNIX)
        FAIL_IF(CONNECT, AT_FDCWD, peer->sun_path);
    return REAL(connect)(fd, address, size);
}

ssize_t recv(int fd, void *to, size_t size, int flags)
{
    int number = fault(RECEIVE, __func__, fd, NULL);

    if (number > 0) {
        errno = number;
        return -1;
    }
    if (number == SHORT && size > 1)
        size /= 2;
    return REAL(recv)(fd, to, size, flags);
}

/* fsync, fdatasync, ftruncate, and what changes the attributes of an open file */

#define CHANGES_FILE(class, kind, offset, real_call) do { \
    char path[PATH_MAX] = ""; \
    int result; \
    FAIL_IF(class, fd, NULL); \
    begin(); \
    if (is_recorded) resolve(fd, NULL, path); \
    result = real_call; \
    end(result == 0, kind, path, "", "", 0, offset); \
    return result; } while (0)

int fsync(int fd)
{
    CHANGES_FILE(SYNC, SYNCED, 0, REAL(fsync)(fd));
}

int fdatasync(int fd)
{
    CHANGES_FILE(SYNC, SYNCED, 0, REAL(fdatasync)(fd));
}

int ftruncate64(int fd, off64_t size)
{
    CHANGES_FILE(TRUNCATE, TRUNCATED, size, REAL(ftruncate64)(fd, size));
}

int fchmod(int fd, mode_t mode)
{
    FAIL_IF(ATTRIBUTES, fd, NULL);
    return REAL(fchmod)(fd, mode);
}

int fchown(int fd, uid_t user, gid_t group)
{
    FAIL_IF(ATTRIBUTES, fd, NULL);
    return REAL(fchown)(fd, user, group);
}

int fchownat(int dir, const char *name, uid_t user, gid_t group, int flags)
{
    FAIL_IF(ATTRIBUTES, dir, name);
    return REAL(fchownat)(dir, name, user, group, flags);
}

static int set_times(const char *function, int dir, const char *name, const struct timespec times[2],
                     int flags)
{
    char path[PATH_MAX] = "";
    int number = fault(ATTRIBUTES, function, dir, name), result;

    if (number > 0) {
        errno = number;
        return -1;
    }
    begin();
    if (is_recorded)
        resolve(dir, name, path);
    result = name ? REAL(utimensat)(dir, name, times, flags) : REAL(futimens)(dir, times);
    end(result == 0 && times, TIMES, path, "", "", 0,
        times ? times[1].tv_sec * 1000000000 + times[1].tv_nsec : 0);
    return result;
}

int utimensat(int dir, const char *name, const struct timespec times[2], int flags)
{
    return set_times(__func__, dir, name, times, flags);
}

int futimens(int fd, const struct timespec times[2])
{
    return set_times(__func__, fd, NULL, times, 0);
}

/* rename, link, unlink, mkdir */

static int change_name(const char *function, enum class class, uint32_t kind, int dir, const char *name,
                       int to_dir, const char *to, int flags)
{
    char path[PATH_MAX] = "", to_path[PATH_MAX] = "";
    int number = fault(class, function, dir, name), result;

    if (number > 0) {
        errno = number;
        return -1;
    }
    begin();
    if (is_recorded) {
        resolve(dir, name, path);
        if (to)
            resolve(to_dir, to, to_path);
    }
    if (kind == RENAMED)
        result = REAL(renameat)(dir, name, to_dir, to);
    else if (kind == LINKED)
        result = REAL(linkat)(dir, name, to_dir, to, flags);
    else if (kind == REMOVED)
        result = REAL(unlinkat)(dir, name, flags);
    else
        result = REAL(mkdirat)(dir, name, (mode_t)flags);
    end(result == 0, kind, path, to_path, "", 0, 0);
    return result;
}

int rename(const char *name, const char *to)
{
    return change_name(__func__, RENAME, RENAMED, AT_FDCWD, name, AT_FDCWD, to, 0);
}

int renameat(int dir, const char *name, int to_dir, const char *to)
{
    return change_name(__func__, RENAME, RENAMED, dir, name, to_dir, to, 0);
}

int link(const char *name, const char *to)
{
    return change_name(__func__, LINK, LINKED, AT_FDCWD, name, AT_FDCWD, to, 0);
}

int linkat(int dir, const char *name, int to_dir, const char *to, int flags)
{
    return change_name(__func__, LINK, LINKED, dir, name, to_dir, to, flags);
}

int unlink(const char *name)
{
    return change_name(__func__, UNLINK, REMOVED, AT_FDCWD, name, 0, NULL, 0);
}

int unlinkat(int dir, const char *name, int flags)
{
    return change_name(__func__, UNLINK, REMOVED, dir, name, 0, NULL, flags);
}

int rmdir(const char *name)
{
    return change_name(__func__, UNLINK, REMOVED, AT_FDCWD, name, 0, NULL, AT_REMOVEDIR);
}

int mkdir(const char *name, mode_t mode)
{
    return change_name(__func__, MKDIR, MADE_DIRECTORY, AT_FDCWD, name, 0, NULL, (int)mode);
}

int mkdirat(int dir, const char *name, mode_t mode)
{
    return change_name(__func__, MKDIR, MADE_DIRECTORY, dir, name, 0, NULL, (int)mode);
}

/* stat, and what else looks at a name or a file */

int stat64(const char *name, struct stat64 *to)
{
    FAIL_IF(STAT, AT_FDCWD, name);
    return REAL(stat64)(name, to);
}

int lstat64(const char *name, struct stat64 *to)
{
    FAIL_IF(STAT, AT_FDCWD, name);
    return REAL(lstat64)(name, to);
}

int fstat64(int fd, struct stat64 *to)
{
    FAIL_IF(STAT, fd, NULL);
    return REAL(fstat64)(fd, to);
}

int fstatat64(int dir, const char *name, struct stat64 *to, int flags)
{
    FAIL_IF(STAT, dir, name);
    return REAL(fstatat64)(dir, name, to, flags);
}

int statx(int dir, const char *restrict name, int flags, unsigned int mask, struct statx *restrict to)
{
    FAIL_IF(STAT, dir, name);
    return REAL(statx)(dir, name, flags, mask, to);
}

int access(const char *name, int mode)
{
    FAIL_IF(STAT, AT_FDCWD, name);
    return REAL(access)(name, mode);
}

int faccessat(int dir, const char *name, int mode, int flags)
{
    FAIL_IF(STAT, dir, name);
    return REAL(faccessat)(dir, name, mode, flags);
}

ssize_t readlink(const char *restrict name, char *restrict to, size_t size)
{
    FAIL_IF(STAT, AT_FDCWD, name);
    return REAL(readlink)(name, to, size);
}

ssize_t readlinkat(int dir, const char *restrict name, char *restrict to, size_t size)
{
    FAIL_IF(STAT, dir, name);
    return REAL(readlinkat)(dir, name, to, size);
}

int statvfs64(const char *restrict name, struct statvfs64 *restrict to)
{
    FAIL_IF(STAT, AT_FDCWD, name);
    return REAL(statvfs64)(name, to);
}

int fstatvfs64(int fd, struct statvfs64 *to)
{
    FAIL_IF(STAT, fd, NULL);
    return REAL(fstatvfs64)(fd, to);
}

/* locks */

int flock(int fd, int operation)
{
    FAIL_IF(LOCK, fd, NULL);
    return REAL(flock)(fd, operation);
}

int fcntl64(int fd, int command, ...)
{
    va_list rest;
    void *argument;

    va_start(rest, command);
    argument = va_arg(rest, void *);
    va_end(rest);
    if (command == F_SETLK || command == F_SETLKW || command == F_OFD_SETLK || command == F_OFD_SETLKW)
        FAIL_IF(LOCK, fd, NULL);
    return REAL(fcntl64)(fd, command, argument);
}

/* getdents: libc reads a part of the directory in readdir */

struct dirent64 *readdir64(DIR *dir)
{
    int number = fault(LISTING, __func__, dirfd(dir), NULL);

    if (number > 0) {
        errno = number;
        return NULL;
    }
    return REAL(readdir64)(dir);
}
