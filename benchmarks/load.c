/*
 * The load generator: POP3 clients that check every reply.
 *
 *   load KIND --port N --user NAME [options]       KIND: see `kinds` below
 *
 * A '#' in NAME is replaced by the number of the client, counted from 0, so that
 * concurrent clients do not compete for the lock of one maildrop.  With --rotate each
 * session logs in as another user: the numbers go on in steps of the number of clients.
 *
 * The program exchanges lines with run.py, so that run.py can read the server's CPU
 * time at the right moments.  It prints "ready" after the preparation, which is not
 * measured, and waits for a line.  It then runs, prints one line of JSON, and waits for
 * another line or the end of its input before it ends its sessions.
 *
 * It has one thread per client and blocking sockets, the simplest design and therefore
 * the one in which the checks are easiest to verify.  The result includes its own CPU
 * time ("client"), which shows whether the load generator was the bottleneck.
 *
 * With --tls FILE it uses TLS 1.3 from the first octet, and the server must have the
 * certificate in FILE.  With --resume, too, each client resumes its last TLS session.
 *
 * A wrong reply ends the run with exit code 1 and one line on stderr, because figures
 * for wrong replies are worthless.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define BUFFER (1 << 18) /* longer than any line, and large reads for large messages */
#define TIMEOUT 60       /* seconds without any data after which the run fails */
#define ADDRESSES 200    /* client addresses from 127.0.0.2 on, see open_connection() */

static struct {
    int port, clients, depth;
    const char *user, *password;
    double seconds;  /* no client starts an operation after this time; 0: no limit */
    long calls;      /* or after so many calls of run(); 0: no limit */
    long messages;   /* the number of messages in the maildrop; -1: unknown */
    int warm;        /* calls of run() before the measured ones */
    int bare;        /* LIST counts a line ending as one octet, see check_message() */
    int rotate;      /* each session has another user */
    const char *tls; /* the file with the server's certificate; NULL: no TLS */
    int resume;      /* resume TLS sessions */
} option = {.clients = 1, .depth = 1, .password = "secret", .messages = -1};

struct client {
    pthread_t thread;
    int number, fd;
    SSL *ssl;             /* NULL: no TLS */
    SSL_SESSION *session; /* from the last ticket that the server has sent */
    long offered, resumed;
    char user[64];
    char *buffer;
    size_t from, to;  /* the part of the buffer that is received but not yet used */
    long total;       /* messages in the maildrop; -1: unknown */
    long *sizes;
    long sent, done;  /* commands sent and answered, if they are pipelined */
    long operations, octets;
    float *durations; /* in seconds, of each call of run() */
    long calls, room;
};

static pthread_barrier_t ready, go, over;
static double deadline; /* written before the barrier `go`, read after it */
static int draining;    /* no new commands are sent; replies are still read */

static void __attribute__((noreturn, format(printf, 1, 2))) fail(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fputs("load: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    exit(1);
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static double own_cpu(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return u.ru_utime.tv_sec + u.ru_stime.tv_sec + (u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

/* ---- connections ---- */

static SSL_CTX *tls; /* NULL: no TLS */

static void __attribute__((noreturn)) fail_tls(const char *action)
{
    const char *reason = ERR_reason_error_string(ERR_peek_error());
    fail("%s: %s", action, reason ? reason : errno ? strerror(errno) : "connection closed");
}

static int keep_session(SSL *ssl, SSL_SESSION *session)
{
    struct client *c = SSL_get_app_data(ssl);
    SSL_SESSION_free(c->session);
    c->session = session;
    return 1;
}

static void prepare_tls(void)
{
    if (!(tls = SSL_CTX_new(TLS_client_method())) || !SSL_CTX_set_min_proto_version(tls, TLS1_3_VERSION) ||
        !SSL_CTX_load_verify_file(tls, option.tls))
        fail_tls(option.tls);
    SSL_CTX_set_verify(tls, SSL_VERIFY_PEER, NULL);
    SSL_CTX_set_read_ahead(tls, 1);
    if (option.resume) {
        SSL_CTX_set_session_cache_mode(tls, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
        SSL_CTX_sess_set_new_cb(tls, keep_session);
    }
}

static void start_tls(struct client *c)
{
    if (!(c->ssl = SSL_new(tls)) || !SSL_set_app_data(c->ssl, c) || !SSL_set_fd(c->ssl, c->fd))
        fail_tls("TLS");
    SSL_SESSION *offered = option.resume ? c->session : NULL;
    if (offered)
        SSL_set_session(c->ssl, offered);
    if (SSL_connect(c->ssl) != 1)
        fail_tls("TLS handshake");
    c->offered += offered != NULL;
    c->resumed += SSL_session_reused(c->ssl);
}

static void close_connection(struct client *c)
{
    if (c->ssl) {
        SSL_shutdown(c->ssl);
        SSL_free(c->ssl);
        c->ssl = NULL;
    }
    close(c->fd);
    c->fd = -1;
}

static void open_connection(struct client *c)
{
    struct sockaddr_in there = {.sin_family = AF_INET, .sin_port = htons(option.port)};
    struct sockaddr_in here = {.sin_family = AF_INET};
    struct timeval timeout = {.tv_sec = TIMEOUT};
    int on = 1;

    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (c->fd < 0)
        fail("socket: %s", strerror(errno));
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(c->fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout);
    setsockopt(c->fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof timeout);
    /* Each client has its own loopback address: many short connections from a single
       address would exhaust its ports, and servers count connections per address. */
    setsockopt(c->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
    here.sin_addr.s_addr = htonl(INADDR_LOOPBACK + 1 + c->number % ADDRESSES);
    there.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (bind(c->fd, (struct sockaddr *)&here, sizeof here))
        fail("bind: %s", strerror(errno));
    if (connect(c->fd, (struct sockaddr *)&there, sizeof there))
        fail("connect: %s", strerror(errno));
    c->from = c->to = 0;
    if (tls)
        start_tls(c);
}

static void send_all(struct client *c, const char *bytes, size_t length)
{
    if (c->ssl) {
        if (SSL_write(c->ssl, bytes, length) != (int)length)
            fail_tls("send");
        return;
    }
    while (length) {
        ssize_t n = send(c->fd, bytes, length, MSG_NOSIGNAL);
        if (n < 0)
            fail("send: %s", strerror(errno));
        bytes += n;
        length -= n;
    }
}

/* Append received data to the buffer; return its length, 0 if the server has closed. */
static size_t receive(struct client *c)
{
    if (c->from == c->to)
        c->from = c->to = 0;
    if (c->to == BUFFER) {
        if (!c->from)
            fail("a line is longer than %d octets", BUFFER);
        memmove(c->buffer, c->buffer + c->from, c->to - c->from);
        c->to -= c->from;
        c->from = 0;
    }
    ssize_t n;
    if (!c->ssl) {
        n = recv(c->fd, c->buffer + c->to, BUFFER - c->to, 0);
    } else if ((n = SSL_read(c->ssl, c->buffer + c->to, BUFFER - c->to)) <= 0) {
        int error = SSL_get_error(c->ssl, n);
        if (error == SSL_ERROR_SSL)
            fail_tls("recv");
        n = error == SSL_ERROR_ZERO_RETURN ? 0 : -1;
    }
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
        fail("no reply within %d seconds", TIMEOUT);
    if (n < 0)
        fail("recv: %s", strerror(errno));
    c->to += n;
    return n;
}

/* Return the next line and its length without CRLF; it is valid until the next call. */
static inline char *read_line(struct client *c, size_t *length)
{
    size_t seen = 0;
    for (;;) {
        char *start = c->buffer + c->from;
        char *end = memchr(start + seen, '\n', c->to - c->from - seen);
        if (end) {
            if (end == start || end[-1] != '\r')
                fail("a line does not end with CRLF: %.*s", (int)(end - start), start);
            c->from += end - start + 1;
            *length = end - start - 1;
            return start;
        }
        seen = c->to - c->from;
        if (!receive(c))
            fail("the server closed the connection within a reply");
    }
}

/* ---- replies ---- */

/* Read a status line, which must be positive; copy the text after "+OK" to `text`. */
static void expect_ok(struct client *c, const char *command, char *text, size_t room)
{
    size_t length;
    char *reply = read_line(c, &length);
    if (length < 3 || memcmp(reply, "+OK", 3) || (length > 3 && reply[3] != ' '))
        fail("%s was answered: %.*s", command, (int)length, reply);
    if (text)
        snprintf(text, room, "%.*s", (int)length - 3, reply + 3);
}

static void send_command(struct client *c, const char *command, const char *argument)
{
    char request[128];
    int length = snprintf(request, sizeof request, "%s%s%s\r\n", command, *argument ? " " : "", argument);
    send_all(c, request, length);
    expect_ok(c, command, NULL, 0);
}

/* Read a line of a multi-line response and undo dot-stuffing; NULL at the terminator. */
static inline char *read_body_line(struct client *c, size_t *length)
{
    char *at = read_line(c, length);
    if (!*length || *at != '.')
        return at;
    if (*length == 1)
        return NULL;
    if (at[1] != '.')
        fail("a line starts with a single dot: %.*s", (int)*length, at);
    --*length;
    return at + 1;
}

static void check_count(struct client *c, const char *command, long count)
{
    if (option.messages >= 0 && count != option.messages)
        fail("%s reports %ld messages instead of %ld", command, count, option.messages);
    if (c->total >= 0 && count != c->total)
        fail("%s reports %ld messages, a previous command %ld", command, count, c->total);
    c->total = count;
}

static void check_stat(struct client *c)
{
    char text[128], rest;
    long count, octets;
    send_all(c, "STAT\r\n", 6);
    expect_ok(c, "STAT", text, sizeof text);
    if (sscanf(text, " %ld %ld%c", &count, &octets, &rest) < 2)
        fail("STAT was answered: +OK%s", text);
    check_count(c, "STAT", count);
}

/* Read a listing of all messages; store the values if they are sizes. */
static void read_listing(struct client *c, const char *command, int sizes)
{
    long count = 0, room = 0;
    size_t length;
    char request[8], *at;
    send_all(c, request, snprintf(request, sizeof request, "%s\r\n", command));
    expect_ok(c, command, NULL, 0);
    while ((at = read_body_line(c, &length))) {
        char *value, *end;
        if (strtol(at, &value, 10) != ++count || *value++ != ' ')
            fail("%s has no line for message %ld: %.*s", command, count, (int)length, at);
        if (!sizes) {
            if (at + length - value < 1 || at + length - value > 70)
                fail("a unique-id must have 1 to 70 octets: %.*s", (int)length, at);
            continue;
        }
        if (count > room) {
            room = room ? 2 * room : 1024;
            c->sizes = realloc(c->sizes, room * sizeof *c->sizes);
        }
        c->sizes[count - 1] = strtol(value, &end, 10);
        if (end == value || end != at + length)
            fail("LIST has no size for message %ld: %.*s", count, (int)length, at);
    }
    check_count(c, command, count);
}

/* Read the reply to RETR; its octets must be those of LIST (RFC 1939 section 11). */
static void check_message(struct client *c, long number)
{
    long octets = 0, lines = 0;
    size_t length;
    expect_ok(c, "RETR", NULL, 0);
    while (read_body_line(c, &length)) {
        octets += length + 2;
        lines++;
    }
    /* A server that reports the size of the file counts each line ending as one octet;
       that is wrong, but it can still be checked. */
    long listed = c->sizes[number - 1] + (option.bare ? lines : 0);
    if (octets != listed)
        fail("RETR %ld has %ld octets instead of %ld", number, octets, listed);
    c->octets += octets;
}

/* Read the reply to TOP n 0: the header, and the blank line as its only one and last. */
static void check_header(struct client *c, long number)
{
    long octets = 0, lines = 0, blank = 0, last = 0;
    size_t length;
    expect_ok(c, "TOP", NULL, 0);
    while (read_body_line(c, &length)) {
        octets += length + 2;
        lines++;
        blank += !length;
        last = !length;
    }
    if (blank != 1 || !last)
        fail("TOP %ld 0 does not end with the blank line after the header", number);
    if (octets > c->sizes[number - 1] + (option.bare ? lines : 0))
        fail("TOP %ld 0 has more octets than the message", number);
    c->octets += octets;
}

/* ---- sessions ---- */

static void open_session(struct client *c)
{
    open_connection(c);
    c->total = -1;
    expect_ok(c, "the connection", NULL, 0);
}

static void login(struct client *c)
{
    open_session(c);
    send_command(c, "USER", c->user);
    send_command(c, "PASS", option.password);
}

static void name_client(struct client *c, int number)
{
    const char *hash = strchr(option.user, '#');
    c->number = number;
    if (hash)
        snprintf(c->user, sizeof c->user, "%.*s%d%s", (int)(hash - option.user), option.user, number, hash + 1);
    else
        snprintf(c->user, sizeof c->user, "%s", option.user);
}

static void quit(struct client *c)
{
    send_command(c, "QUIT", "");
    if (c->from != c->to || receive(c))
        fail("data after the reply to QUIT: %.*s", (int)(c->to - c->from), c->buffer + c->from);
    close_connection(c);
    if (option.rotate)
        name_client(c, c->number + option.clients);
}

static void login_and_list(struct client *c)
{
    login(c);
    read_listing(c, "LIST", 1);
    if (!c->total)
        fail("the maildrop is empty");
}

/* Pipeline up to `depth` commands.  Send more only when half of them are answered, because
   sending them one by one would require a system call for each. */
static void pipeline(struct client *c, const char *command, const char *argument)
{
    char requests[32 * 1024];
    size_t length = 0;
    if (draining || c->sent - c->done > option.depth / 2)
        return;
    for (; c->sent - c->done < option.depth; c->sent++) {
        if (length > sizeof requests - 64)
            break;
        if (argument)
            length += sprintf(requests + length, "%s %ld%s\r\n", command, c->sent % c->total + 1, argument);
        else
            length += sprintf(requests + length, "%s\r\n", command);
    }
    send_all(c, requests, length);
}

/* The repeated operations; each function returns the number of operations it did. */

static long run_connect(struct client *c)
{
    open_session(c);
    close_connection(c);
    return 1;
}

static long run_login(struct client *c)
{
    login(c);
    check_stat(c);
    quit(c);
    return 1;
}

static long run_poll(struct client *c)
{
    login(c);
    read_listing(c, "UIDL", 0);
    read_listing(c, "LIST", 1);
    quit(c);
    return 1;
}

static long run_retr(struct client *c)
{
    pipeline(c, "RETR", "");
    check_message(c, c->done++ % c->total + 1);
    return 1;
}

static long run_top(struct client *c)
{
    pipeline(c, "TOP", " 0");
    check_header(c, c->done++ % c->total + 1);
    return 1;
}

static long run_noop(struct client *c)
{
    pipeline(c, "NOOP", NULL);
    expect_ok(c, "NOOP", NULL, 0);
    c->done++;
    return 1;
}

/* The waiting of the first client, which sends NOOP, beside the others, which pipeline RETR:
   the durations are those of NOOP, the operations are those of RETR. */
static long run_beside(struct client *c)
{
    if (c->number)
        return run_retr(c);
    send_command(c, "NOOP", "");
    return 0;
}

static long run_dele(struct client *c)
{
    char number[32];
    login_and_list(c);
    for (long n = 1; n <= c->total; n++) {
        snprintf(number, sizeof number, "RETR %ld\r\n", n);
        send_all(c, number, strlen(number));
        check_message(c, n);
        snprintf(number, sizeof number, "%ld", n);
        send_command(c, "DELE", number);
    }
    quit(c);
    return c->total;
}

static long run_life(struct client *c)
{
    run_dele(c);
    return 1;
}

static const struct kind {
    const char *name;
    void (*prepare)(struct client *);
    long (*run)(struct client *);
} kinds[] = {
    {"connect", NULL, run_connect},
    {"login", NULL, run_login},
    {"poll", NULL, run_poll},
    {"retr", login_and_list, run_retr},
    {"top", login_and_list, run_top},
    {"dele", NULL, run_dele},
    {"life", NULL, run_life},
    {"beside", login_and_list, run_beside},
    {"noop", login, run_noop},
    {"idle", NULL, NULL}, /* see idle() */
};
static const struct kind *kind;

static void record_duration(struct client *c, double seconds)
{
    if (c->calls == c->room) {
        c->room = c->room ? 2 * c->room : 4096;
        c->durations = realloc(c->durations, c->room * sizeof *c->durations);
    }
    c->durations[c->calls++] = seconds;
}

static void *work(void *argument)
{
    struct client *c = argument;
    if (kind->prepare)
        kind->prepare(c);
    for (int n = 0; n < option.warm; n++)
        kind->run(c);
    c->octets = 0;
    pthread_barrier_wait(&ready);
    pthread_barrier_wait(&go);
    double before = now();
    for (long calls = 0; !option.calls || calls < option.calls; calls++) {
        if (calls && deadline && before >= deadline)
            break;
        c->operations += kind->run(c);
        double after = now();
        if (kind->run != run_beside || !c->number)
            record_duration(c, after - before);
        before = after;
    }
    pthread_barrier_wait(&over);
    return NULL;
}

static void wait_for_line(void)
{
    int c;
    while ((c = getchar()) != EOF && c != '\n')
        ;
}

static int compare(const void *a, const void *b)
{
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static void measure(void)
{
    struct client *clients = calloc(option.clients, sizeof *clients);
    pthread_barrier_init(&ready, NULL, option.clients + 1);
    pthread_barrier_init(&go, NULL, option.clients + 1);
    pthread_barrier_init(&over, NULL, option.clients + 1);
    for (int n = 0; n < option.clients; n++) {
        clients[n].buffer = malloc(BUFFER);
        clients[n].fd = -1;
        name_client(&clients[n], n);
        if (pthread_create(&clients[n].thread, NULL, work, &clients[n]))
            fail("cannot create a thread for client %d", n);
    }
    pthread_barrier_wait(&ready);
    puts("ready");
    wait_for_line();
    double cpu = own_cpu(), start = now();
    deadline = option.seconds ? start + option.seconds : 0;
    pthread_barrier_wait(&go);
    pthread_barrier_wait(&over);
    double seconds = now() - start;
    cpu = own_cpu() - cpu;

    struct client all = {0};
    for (int n = 0; n < option.clients; n++) {
        all.operations += clients[n].operations;
        all.octets += clients[n].octets;
        all.offered += clients[n].offered;
        all.resumed += clients[n].resumed;
        for (long call = 0; call < clients[n].calls; call++)
            record_duration(&all, clients[n].durations[call]);
    }
    qsort(all.durations, all.calls, sizeof *all.durations, compare);
    printf("{\"operations\": %ld, \"seconds\": %.6f, \"client\": %.6f, \"octets\": %ld, "
           "\"p99\": %.9f, \"slowest\": %.9f, \"resumed\": %.4f}\n",
           all.operations, seconds, cpu, all.octets,
           all.durations[(all.calls - 1) * 99 / 100], all.durations[all.calls - 1],
           all.offered ? (double)all.resumed / all.offered : 0.0);
    wait_for_line();
    draining = 1;
    for (int n = 0; n < option.clients; n++) {
        while (clients[n].done < clients[n].sent)
            kind->run(&clients[n]);
        if (clients[n].fd >= 0)
            quit(&clients[n]);
    }
}

/* Open idle sessions; each line of the input is the total number of them. */
static void idle(void)
{
    struct client c = {.fd = -1, .buffer = malloc(BUFFER)};
    int open = 0, requested;
    puts("ready");
    while (scanf("%d", &requested) == 1) {
        for (; open < requested; open++) {
            name_client(&c, open);
            login(&c); /* the descriptor is not stored; it stays open until the end */
        }
        printf("{\"connections\": %d}\n", open);
    }
}

int main(int argc, char **argv)
{
    static const struct option names[] = {
        {"port", 1, 0, 'p'},  {"user", 1, 0, 'u'},     {"password", 1, 0, 'P'},
        {"clients", 1, 0, 'c'}, {"depth", 1, 0, 'd'},  {"seconds", 1, 0, 's'},
        {"calls", 1, 0, 'n'}, {"messages", 1, 0, 'm'}, {"warm", 1, 0, 'w'},
        {"bare", 0, 0, 'b'},  {"rotate", 0, 0, 'r'},   {"tls", 1, 0, 'T'},
        {"resume", 0, 0, 'R'}, {0, 0, 0, 0},
    };
    int letter;
    while ((letter = getopt_long(argc, argv, "", names, NULL)) != -1)
        switch (letter) {
        case 'p': option.port = atoi(optarg); break;
        case 'u': option.user = optarg; break;
        case 'P': option.password = optarg; break;
        case 'c': option.clients = atoi(optarg); break;
        case 'd': option.depth = atoi(optarg); break;
        case 's': option.seconds = atof(optarg); break;
        case 'n': option.calls = atol(optarg); break;
        case 'm': option.messages = atol(optarg); break;
        case 'w': option.warm = atoi(optarg); break;
        case 'b': option.bare = 1; break;
        case 'r': option.rotate = 1; break;
        case 'T': option.tls = optarg; break;
        case 'R': option.resume = 1; break;
        default: return 2;
        }
    for (size_t n = 0; optind < argc && n < sizeof kinds / sizeof *kinds; n++)
        if (!strcmp(kinds[n].name, argv[optind]))
            kind = &kinds[n];
    if (!kind || !option.port || !option.user || option.clients < 1 || option.depth < 1 ||
        !(option.seconds || option.calls || !kind->run)) {
        fputs("usage: load KIND --port N --user NAME (--seconds S | --calls N) [options]\n", stderr);
        return 2;
    }
    if (option.tls)
        prepare_tls();
    signal(SIGPIPE, SIG_IGN); /* OpenSSL writes without MSG_NOSIGNAL */
    setvbuf(stdout, NULL, _IOLBF, 0); /* run.py reads it line by line through a pipe */
    if (kind->run)
        measure();
    else
        idle();
    return 0;
}
