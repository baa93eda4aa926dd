/* The inner loops of popserv in C, which is optional.

   Each function does the same as the Python function of its name, which has the description, and
   takes its place if this module was built; popserv.runtime.speedups tells how.  Tests compare the
   two.  Functions that return None leave the case to the caller.  What is about jobs has no such
   function; popserv.runtime.native_threads describes it. */

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030A0000
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <Python.h>

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#ifdef __linux__
#include <sys/fsuid.h>
#endif
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

/* With the headers of Python 3.13 and newer the plain names read the same formats, but their
   functions fail in the older versions of Python for which this module is built as well. */
#if PY_VERSION_HEX >= 0x030D0000
PyAPI_FUNC(int) _PyArg_ParseTuple_SizeT(PyObject *, const char *, ...);
PyAPI_FUNC(PyObject *) _Py_BuildValue_SizeT(const char *, ...);
#define PyArg_ParseTuple _PyArg_ParseTuple_SizeT
#define Py_BuildValue _Py_BuildValue_SizeT
#endif

#define CHUNK (1 << 17) /* popserv.maildrops.page_cache.CHUNK */
#define SMALL_MESSAGE (1 << 16) /* popserv.maildrops.maildir.files.SMALL_MESSAGE */
#define BATCH 256 /* popserv.maildrops.maildir.listing.counting.BATCH */
#ifndef ROOM
#define ROOM (2 * CHUNK + 1024) /* for a chunk, framed, and a status line */
#endif
#define OPEN_FLAGS (O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC)
#define FOLDER_FLAGS (O_RDONLY | O_NOFOLLOW | O_DIRECTORY | O_CLOEXEC)

static PyObject *split_line(PyObject *module, PyObject *line)
{
    char *text;
    Py_ssize_t length;
    if (PyBytes_AsStringAndSize(line, &text, &length) < 0)
        return NULL;
    const char *end = text + length;
    if (length > 0 && end[-1] == '\r')
        end--;
    const char *space = memchr(text, ' ', end - text);
    const char *keyword_end = space ? space : end;
    PyObject *keyword = PyBytes_FromStringAndSize(NULL, keyword_end - text);
    if (keyword == NULL)
        return NULL;
    for (char *out = PyBytes_AsString(keyword); text < keyword_end; text++)
        *out++ = *text >= 'a' && *text <= 'z' ? *text - 'a' + 'A' : *text;
    PyObject *argument, *parts = NULL;
    if (space)
        argument = PyBytes_FromStringAndSize(space + 1, end - space - 1);
    else
        argument = Py_NewRef(Py_None);
    if (argument != NULL)
        parts = PyTuple_Pack(2, keyword, argument);
    Py_XDECREF(argument);
    Py_DECREF(keyword);
    return parts;
}

/* The lines from start to end, and what they become in wire form. */
struct wire {
    const char *start, *end;
    Py_ssize_t octets;
    int has_blank_line;
};

/* A line and its end: "next" is the start of the next one.  Without an LF, has_lf is 0. */
struct line {
    const char *start, *end, *next;
    int has_lf;
};

static int next_line(struct line *line, const char *end)
{
    const char *start = line->next;
    if (start == end)
        return 0;
    const char *lf = memchr(start, '\n', end - start);
    line->start = start;
    line->has_lf = lf != NULL;
    line->next = lf ? lf + 1 : end;
    line->end = lf ? lf : end;
    /* A CR belongs to the line end only before an LF. */
    if (lf && lf > start && lf[-1] == '\r')
        line->end--;
    return 1;
}

static void measure(struct wire *wire)
{
    struct line line = {.next = wire->start};
    wire->octets = wire->has_blank_line = 0;
    while (next_line(&line, wire->end)) {
        wire->octets += line.end - line.start + 2;
        wire->has_blank_line |= line.has_lf && line.start == line.end;
    }
}

/* Text is framed here and then copied, because counting its lines and dots first takes longer.
   Used with the lock of the interpreter. */
static char room[ROOM];

/* Return room for text of which each octet becomes two at most, and for more octets, or NULL. */
static char *take_room(Py_ssize_t length, Py_ssize_t more)
{
    if (length > (PY_SSIZE_T_MAX - more) / 2)
        return NULL;
    Py_ssize_t octets = 2 * length + more;
    return octets <= (Py_ssize_t)sizeof room ? room : malloc(octets);
}

static void leave_room(char *taken)
{
    if (taken != room)
        free(taken);
}

/* Return the status line, the lines with dot-stuffing, and the terminator, or None unless the lines
   have these octets in wire form. */
static PyObject *response(const char *start, const char *end, long long least, long long most,
                          const char *status, Py_ssize_t status_length)
{
    /* The last line may have no end. */
    char *first = take_room(end - start, status_length + 5), *out = first;
    if (first == NULL)
        return PyErr_NoMemory();
    memcpy(out, status, status_length);
    out += status_length;
    struct line line = {.next = start};
    long long octets = 0;
    while (next_line(&line, end)) {
        Py_ssize_t length = line.end - line.start;
        if (*line.start == '.')
            *out++ = '.';
        memcpy(out, line.start, length);
        out += length;
        *out++ = '\r';
        *out++ = '\n';
        octets += length + 2;
    }
    memcpy(out, ".\r\n", 3);
    out += 3;
    PyObject *result;
    if (octets < least || octets > most)
        result = Py_NewRef(Py_None);
    else
        result = PyBytes_FromStringAndSize(first, out - first);
    leave_room(first);
    return result;
}

static PyObject *frame_lines(PyObject *module, PyObject *args)
{
    const char *text;
    Py_ssize_t length;
    int at_line_start;
    if (!PyArg_ParseTuple(args, "y#p", &text, &length, &at_line_start))
        return NULL;
    /* One more, so that an empty text does not ask for none. */
    char *first = take_room(length, 1), *out = first;
    if (first == NULL)
        return PyErr_NoMemory();
    const char *end = text + length;
    Py_ssize_t dots = 0;
    for (const char *next = text; next < end; at_line_start = 1) {
        const char *start = next, *lf = memchr(start, '\n', end - start);
        if (at_line_start && *start == '.') {
            *out++ = '.';
            dots++;
        }
        next = lf ? lf + 1 : end;
        memcpy(out, start, (lf ? lf : end) - start);
        out += (lf ? lf : end) - start;
        if (lf) {
            *out++ = '\r';
            *out++ = '\n';
        }
    }
    Py_ssize_t octets = out - first - dots;
    PyObject *result = PyBytes_FromStringAndSize(first, out - first);
    leave_room(first);
    return Py_BuildValue("Nn", result, octets);
}

static PyObject *frame_message(PyObject *module, PyObject *args)
{
    const char *text, *status;
    Py_ssize_t length, status_length;
    long long octets;
    if (!PyArg_ParseTuple(args, "y#Ly#", &text, &length, &octets, &status, &status_length))
        return NULL;
    return response(text, text + length, octets, octets, status, status_length);
}

static PyObject *frame_top(PyObject *module, PyObject *args)
{
    const char *text, *status;
    Py_ssize_t length, status_length;
    long long lines, octets;
    int is_whole, is_in_header = 1;
    if (!PyArg_ParseTuple(args, "y#LLpy#", &text, &length, &lines, &octets, &is_whole, &status,
                          &status_length))
        return NULL;
    const char *end = text + length, *top_end = NULL;
    struct line line = {.next = text};
    while (top_end == NULL && next_line(&line, end) && line.has_lf) {
        if (!is_in_header)
            lines--;
        else if (line.start == line.end)
            is_in_header = 0;
        if (!is_in_header && lines == 0)
            top_end = line.next;
    }
    if (top_end != NULL)
        return response(text, top_end, 0, octets, status, status_length);
    if (!is_whole)
        Py_RETURN_NONE;
    return response(text, end, octets, octets, status, status_length);
}

static PyObject *count_message(PyObject *module, PyObject *args)
{
    const char *text;
    Py_ssize_t length;
    if (!PyArg_ParseTuple(args, "y#", &text, &length))
        return NULL;
    struct wire wire = {text, text + length};
    measure(&wire);
    return Py_BuildValue("nO", wire.octets, wire.has_blank_line ? Py_True : Py_False);
}

/* Functions for files, on Linux only: RWF_NOWAIT reads without waiting. */
#ifdef RWF_NOWAIT

static PyObject *read_part(PyObject *module, PyObject *args)
{
    int fd;
    Py_ssize_t octets;
    long long offset;
    if (!PyArg_ParseTuple(args, "inL", &fd, &octets, &offset))
        return NULL;
    if (octets < 0 || octets > CHUNK)
        Py_RETURN_NONE;
    PyObject *part = PyBytes_FromStringAndSize(NULL, octets);
    if (part == NULL)
        return NULL;
    struct iovec whole = {PyBytes_AsString(part), octets};
    if (preadv2(fd, &whole, 1, offset, RWF_NOWAIT) == octets)
        return part;
    Py_DECREF(part);
    Py_RETURN_NONE;
}

static PyObject *read_cached_file(PyObject *module, PyObject *args)
{
    /* Used with the lock of the interpreter. */
    static char buffer[CHUNK];
    const char *name;
    int folder;
    Py_ssize_t maximum;
    if (!PyArg_ParseTuple(args, "yin", &name, &folder, &maximum))
        return NULL;
    int fd = openat(folder, name, OPEN_FLAGS);
    if (fd < 0)
        Py_RETURN_NONE;
    struct iovec part = {buffer, maximum < CHUNK ? maximum : CHUNK};
    ssize_t length = preadv2(fd, &part, 1, 0, RWF_NOWAIT);
    close(fd);
    if (length < 0)
        Py_RETURN_NONE;
    return PyBytes_FromStringAndSize(buffer, length);
}

/* As popserv.maildrops.cached_open. */
static int open_cached(int folder, const char *name)
{
    struct {
        uint64_t flags, mode, resolve;
    } how = {OPEN_FLAGS, 0, 0x24};
    return syscall(437, folder, name, &how, sizeof how);
}

/* Return the octets read of a file of less than SMALL_MESSAGE octets, or -1. */
static ssize_t read_small(int folder, const char *name, int cached, char *buffer)
{
    int fd = cached ? open_cached(folder, name) : openat(folder, name, OPEN_FLAGS);
    if (fd < 0)
        return -1;
    struct iovec part = {buffer, SMALL_MESSAGE};
    ssize_t length = preadv2(fd, &part, 1, 0, cached ? RWF_NOWAIT : 0);
    /* The page cache may have the start of it only, and a read may return less than there is. */
    if (length == SMALL_MESSAGE || length < lseek(fd, 0, SEEK_END))
        length = -1;
    close(fd);
    return length;
}

static int is_ascii(const char *text, ssize_t length)
{
    uint64_t eight, all = 0;
    ssize_t i = 0;
    for (; i + 8 <= length; i += 8) {
        memcpy(&eight, text + i, 8);
        all |= eight;
    }
    for (; i < length; i++)
        all |= (unsigned char)text[i];
    return (all & UINT64_C(0x8080808080808080)) == 0;
}

static int may_be_compressed(const char *text, ssize_t length)
{
    /* As popserv.maildrops.maildir.contents.compressed.STARTS. */
    static const char *const starts[] = {"\x1f\x8b", "BZh", "\xfd" "7zXZ", "(\xb5/\xfd", "Dovecot-LZ4"};
    for (size_t i = 0; i < sizeof starts / sizeof *starts; i++) {
        ssize_t each = strlen(starts[i]);
        if (length >= each && memcmp(text, starts[i], each) == 0)
            return 1;
    }
    return 0;
}

static uint64_t stamp_of_small(uint64_t inode, uint64_t length)
{
    return inode + length * UINT64_C(0x9E3779B97F4A7C15);
}

/* A file to be counted, and what was counted. */
struct counted {
    const char *name;
    uint64_t inode, octets, stamp;
};

/* Count a file that was read; return 0 if it is left to the caller. */
static int count_text(struct counted *file, const char *text, ssize_t length, int ascii_only)
{
    if (length <= 0 || may_be_compressed(text, length))
        return 0;
    struct wire wire = {text, text + length};
    measure(&wire);
    file->octets = wire.octets;
    file->stamp = stamp_of_small(file->inode, length);
    return wire.has_blank_line && !(ascii_only && !is_ascii(text, length));
}

/* Return how many files were counted; the next one, if there is one, is left to the caller. */
static Py_ssize_t count_all(struct counted *files, Py_ssize_t count, int folder, int ascii_only)
{
    char text[SMALL_MESSAGE];
    Py_ssize_t i;
    for (i = 0; i < count; i++)
        if (!count_text(&files[i], text, read_small(folder, files[i].name, 0, text), ascii_only))
            break;
    return i;
}

/* As count_all, for files that are cached, whose contents are added to a list; -1 if it fails. */
static Py_ssize_t count_cached(struct counted *files, Py_ssize_t count, int folder, int ascii_only,
                               PyObject *texts)
{
    char text[SMALL_MESSAGE];
    Py_ssize_t i;
    for (i = 0; i < count; i++) {
        ssize_t length = read_small(folder, files[i].name, 1, text);
        if (!count_text(&files[i], text, length, ascii_only))
            break;
        PyObject *contents = PyBytes_FromStringAndSize(text, length);
        int failed = contents == NULL || PyList_Append(texts, contents) < 0;
        Py_XDECREF(contents);
        if (failed)
            return -1;
    }
    return i;
}

static PyObject *count_small_files(PyObject *module, PyObject *args)
{
    struct counted files[BATCH];
    uint64_t octets[BATCH], stamps[BATCH];
    PyObject *names, *inodes;
    Py_ssize_t first;
    int folder, ascii_only, cached;
    if (!PyArg_ParseTuple(args, "O!O!nipp", &PyTuple_Type, &names, &PyTuple_Type, &inodes, &first,
                          &folder, &ascii_only, &cached))
        return NULL;
    Py_ssize_t counted, count = PyTuple_Size(names) - first;
    if (count > BATCH)
        count = BATCH;
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *name = PyTuple_GetItem(names, first + i);
        PyObject *inode = PyTuple_GetItem(inodes, first + i);
        char *text;
        if (name == NULL || inode == NULL || PyBytes_AsStringAndSize(name, &text, NULL) < 0)
            return NULL;
        files[i].name = text;
        files[i].inode = PyLong_AsUnsignedLongLong(inode);
        if (PyErr_Occurred())
            return NULL;
    }
    PyObject *texts = PyList_New(0);
    if (texts == NULL)
        return NULL;
    if (cached) {
        counted = count_cached(files, count, folder, ascii_only, texts);
    } else {
        Py_BEGIN_ALLOW_THREADS
        counted = count_all(files, count, folder, ascii_only);
        Py_END_ALLOW_THREADS
    }
    if (counted < 0) {
        Py_DECREF(texts);
        return NULL;
    }
    for (Py_ssize_t i = 0; i < counted; i++) {
        octets[i] = files[i].octets;
        stamps[i] = files[i].stamp;
    }
    return Py_BuildValue("y#y#N", (char *)octets, counted * (Py_ssize_t)sizeof *octets,
                         (char *)stamps, counted * (Py_ssize_t)sizeof *stamps, texts);
}

/* A call that needs no interpreter while it runs; popserv.runtime.native_threads. */
struct job {
    void (*run)(struct job *job);
    PyObject *(*result)(const struct job *job);
    void (*free)(struct job *job);
    PyObject *args; /* whatever the job points to */
};

static const char JOB[] = "popserv._speedups.job";

static void free_job(PyObject *capsule)
{
    struct job *job = PyCapsule_GetPointer(capsule, JOB);
    PyObject *args = job->args;
    job->free(job);
    Py_DecRef(args);
}

/* Return an object that frees the job with itself; without one, free it at once. */
static PyObject *new_job(struct job *job)
{
    PyObject *capsule = PyCapsule_New(job, JOB, free_job);
    if (capsule == NULL) {
        PyObject *args = job->args;
        job->free(job);
        Py_DecRef(args);
    }
    return capsule;
}

/* Run a job in this thread; return its result. */
static PyObject *run_here(PyObject *capsule)
{
    if (capsule == NULL)
        return NULL;
    struct job *job = PyCapsule_GetPointer(capsule, JOB);
    Py_BEGIN_ALLOW_THREADS
    job->run(job);
    Py_END_ALLOW_THREADS
    PyObject *result = job->result(job);
    Py_DecRef(capsule);
    return result;
}

static PyObject *job_address(PyObject *module, PyObject *capsule)
{
    struct job *job = PyCapsule_GetPointer(capsule, JOB);
    return job ? PyLong_FromVoidPtr(job) : NULL;
}

static PyObject *job_result(PyObject *module, PyObject *capsule)
{
    struct job *job = PyCapsule_GetPointer(capsule, JOB);
    return job ? job->result(job) : NULL;
}

/* Run the jobs whose addresses are read from one pipe, until its end, and write them to another. */
static PyObject *run_jobs(PyObject *module, PyObject *args)
{
    int jobs, done;
    struct job *job;
    ssize_t length;
    if (!PyArg_ParseTuple(args, "ii", &jobs, &done))
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    while ((length = read(jobs, &job, sizeof job)) != 0) {
        if (length < 0 && errno == EINTR)
            continue;
        if (length < 0)
            break;
        job->run(job);
        while (write(done, &job, sizeof job) < 0 && errno == EINTR)
            ;
    }
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

/* A file to be removed, and its length when it was. */
struct doomed {
    const char *name;
    uint64_t stamp;
    long long length;
};

/* As popserv.maildrops.maildir.files.stamp_of. */
static uint64_t stamp_of(const struct stat *status)
{
    uint64_t stamp = stamp_of_small(status->st_ino, status->st_size);
    if (status->st_size >= SMALL_MESSAGE) {
        uint64_t nanoseconds = status->st_mtim.tv_sec * UINT64_C(1000000000);
        stamp += (nanoseconds + status->st_mtim.tv_nsec) * UINT64_C(0xC2B2AE3D27D4EB4F);
    }
    return stamp;
}

/* The files of a folder of a Maildir that are to be removed, and what has become of them. */
struct removal {
    struct job job;
    struct doomed *files;
    Py_ssize_t count, removed;
    const char *folder;
    int maildir_fd, unless_recorded, is_done, error;
};

static void unlink_files(struct removal *removal, int folder)
{
    struct stat status;
    for (; removal->removed < removal->count; removal->removed++) {
        struct doomed *file = &removal->files[removal->removed];
        if (fstatat(folder, file->name, &status, AT_SYMLINK_NOFOLLOW) != 0)
            break;
        if (stamp_of(&status) != file->stamp || unlinkat(folder, file->name, 0) != 0)
            break;
        file->length = status.st_size;
    }
}

static int is_missing(int folder, const char *name)
{
    struct stat status;
    return fstatat(folder, name, &status, AT_SYMLINK_NOFOLLOW) != 0 && errno == ENOENT;
}

/* As popserv.maildrops.maildir.quota_file.may_be_recorded. */
static int may_be_recorded(int maildir_fd)
{
    return !is_missing(maildir_fd, "maildirfolder") || !is_missing(maildir_fd, "maildirsize");
}

/* Return 0, or the number of the error. */
static int sync_folder(int folder)
{
    int error;
    do
        error = fsync(folder) == 0 ? 0 : errno;
    while (error == EINTR);
    return error;
}

static void run_removal(struct job *job)
{
    struct removal *removal = (struct removal *)job;
    if (removal->unless_recorded && may_be_recorded(removal->maildir_fd))
        return;
    int folder = openat(removal->maildir_fd, removal->folder, FOLDER_FLAGS);
    if (folder < 0)
        return;
    unlink_files(removal, folder);
    removal->is_done = removal->removed == removal->count && !may_be_recorded(removal->maildir_fd);
    if (removal->is_done || (removal->unless_recorded && removal->removed))
        removal->error = sync_folder(folder);
    close(folder);
}

static PyObject *result_of_removal(const struct job *job)
{
    const struct removal *removal = (const struct removal *)job;
    if (removal->error) {
        errno = removal->error;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    PyObject *lengths = PyList_New(removal->removed);
    for (Py_ssize_t i = 0; lengths != NULL && i < removal->removed; i++) {
        PyObject *length = PyLong_FromLongLong(removal->files[i].length);
        if (length == NULL)
            Py_CLEAR(lengths);
        else
            PyList_SetItem(lengths, i, length);
    }
    return lengths ? Py_BuildValue("NO", lengths, removal->is_done ? Py_True : Py_False) : NULL;
}

static void free_removal(struct job *job)
{
    PyMem_Free(((struct removal *)job)->files);
    PyMem_Free(job);
}

static PyObject *unlink_unchanged_job(PyObject *module, PyObject *args)
{
    PyObject *names, *stamps;
    struct removal *removal = PyMem_Calloc(1, sizeof *removal);
    if (removal == NULL)
        return PyErr_NoMemory();
    removal->job = (struct job){run_removal, result_of_removal, free_removal, Py_NewRef(args)};
    PyObject *capsule = new_job(&removal->job);
    if (capsule == NULL)
        return NULL;
    if (!PyArg_ParseTuple(args, "O!yO!ip", &PyTuple_Type, &names, &removal->folder, &PyTuple_Type,
                          &stamps, &removal->maildir_fd, &removal->unless_recorded))
        goto failed;
    removal->count = PyTuple_Size(names);
    if (PyTuple_Size(stamps) != removal->count) {
        PyErr_SetString(PyExc_ValueError, "not one stamp for each name");
        goto failed;
    }
    removal->files = PyMem_Calloc(removal->count, sizeof *removal->files);
    if (removal->files == NULL) {
        PyErr_NoMemory();
        goto failed;
    }
    for (Py_ssize_t i = 0; i < removal->count; i++) {
        char *name;
        if (PyBytes_AsStringAndSize(PyTuple_GetItem(names, i), &name, NULL) < 0)
            goto failed;
        removal->files[i].name = name;
        removal->files[i].stamp = PyLong_AsUnsignedLongLong(PyTuple_GetItem(stamps, i));
        if (PyErr_Occurred())
            goto failed;
    }
    return capsule;
failed:
    Py_DecRef(capsule);
    return NULL;
}

static PyObject *unlink_unchanged(PyObject *module, PyObject *args)
{
    return run_here(unlink_unchanged_job(module, args));
}

#endif

/* As in popserv.runtime.file_credentials, on the systems that it supports. */
#if defined __linux__ && defined __LP64__

static PyObject *set_file_credentials(PyObject *module, PyObject *args)
{
    unsigned int uid, gid;
    const char *groups;
    Py_ssize_t length;
    if (!PyArg_ParseTuple(args, "IIz#", &uid, &gid, &groups, &length))
        return NULL;
    if (groups && syscall(SYS_setgroups, length / sizeof(gid_t), groups) != 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    setfsgid(gid);
    setfsuid(uid);
    if ((uid_t)setfsuid(-1) != uid || (gid_t)setfsgid(-1) != gid) {
        errno = EPERM;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    Py_RETURN_NONE;
}

#endif

static PyMethodDef methods[] = {
    {"split_line", split_line, METH_O, NULL},
    {"frame_lines", frame_lines, METH_VARARGS, NULL},
    {"frame_message", frame_message, METH_VARARGS, NULL},
    {"frame_top", frame_top, METH_VARARGS, NULL},
    {"count_message", count_message, METH_VARARGS, NULL},
#ifdef RWF_NOWAIT
    {"read_part", read_part, METH_VARARGS, NULL},
    {"read_cached_file", read_cached_file, METH_VARARGS, NULL},
    {"count_small_files", count_small_files, METH_VARARGS, NULL},
    {"unlink_unchanged", unlink_unchanged, METH_VARARGS, NULL},
    {"unlink_unchanged_job", unlink_unchanged_job, METH_VARARGS, NULL},
    {"job_address", job_address, METH_O, NULL},
    {"job_result", job_result, METH_O, NULL},
    {"run_jobs", run_jobs, METH_VARARGS, NULL},
#endif
#if defined __linux__ && defined __LP64__
    {"set_file_credentials", set_file_credentials, METH_VARARGS, NULL},
#endif
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT,
    .m_name = "popserv._speedups",
    .m_methods = methods,
};

PyMODINIT_FUNC PyInit__speedups(void)
{
    return PyModuleDef_Init(&module);
}
