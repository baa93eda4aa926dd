/*
 * The load: POP3 clients that check everything they are told.
 *
 *   load KIND --port N --user NAME [options]       KIND: see `kinds` at the end
 *
 * A '#' in NAME becomes the number of the client, counted from 0, so that clients
 * that run at once do not meet at one maildrop's lock.
 *
 * It talks with run.py by lines, so that run.py can read the server's CPU time at the
 * right moments: "ready" when all that is not measured is done, then it waits for a
 * line, works, prints one line of JSON, and waits for another line (or the end of its
 * input) before it leaves.
 *
 * One thread a client and blocking sockets: that is the least code in which a check
 * can go wrong, and the time a client needs is told ("client") so that anybody can
 * see whether the load was the bottleneck.
 *
 * Whatever is not as it must be ends the run with exit code 1 and one line on stderr;
 * a figure for wrong replies would be worth nothing.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define BUFFER (1 << 18) /* more than any line, and large reads for large messages */
#define PATIENCE 60      /* seconds without an octet after which the server counts as stuck */
#define ADDRESSES 200    /* clients spread over 127.0.0.2 and up, see dial() */

static struct {
    int port, clients, depth;
    const char *user, *password;
    double seconds;  /* after these no client begins anything new; 0: no such end */
    long calls;      /* nor after that many calls of one(); 0: no such end */
    long messages;   /* how many the maildrop must have; -1: not known */
    int warm;        /* calls of one() before the measured ones */
    int bare;        /* LIST counts a line's end as one octet, see message() */
} option = {.clients = 1, .depth = 1, .password = "secret", .messages = -1};

struct client {
    pthread_t thread;
    int number, fd;
    char user[64];
    char *buffer;
    size_t from, to;  /* what of the buffer has been read but not used */
    long total;       /* messages, as LIST said */
    long *sizes;
    long sent, done;  /* commands, in the kinds that keep several in flight */
    long operations, octets;
    double slowest;
};

static pthread_barrier_t ready, go, over;
static double deadline; /* written before `go`, read behind it */
static int draining;    /* nothing new is asked, what is in flight is awaited */

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

/* ---- the connection ---- */

static void dial(struct client *c)
{
    struct sockaddr_in there = {.sin_family = AF_INET, .sin_port = htons(option.port)};
    struct sockaddr_in here = {.sin_family = AF_INET};
    struct timeval patience = {.tv_sec = PATIENCE};
    int on = 1;

    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (c->fd < 0)
        fail("socket: %s", strerror(errno));
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    setsockopt(c->fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    setsockopt(c->fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    /* Many short connections from one address would run out of ports, and servers
       count connections by address: so each client has one of loopback's many. */
    setsockopt(c->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &on, sizeof on);
    here.sin_addr.s_addr = htonl(INADDR_LOOPBACK + 1 + c->number % ADDRESSES);
    there.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (bind(c->fd, (struct sockaddr *)&here, sizeof here))
        fail("bind: %s", strerror(errno));
    if (connect(c->fd, (struct sockaddr *)&there, sizeof there))
        fail("connect: %s", strerror(errno));
    c->from = c->to = 0;
}

static void put(struct client *c, const char *bytes, size_t length)
{
    while (length) {
        ssize_t n = send(c->fd, bytes, length, MSG_NOSIGNAL);
        if (n < 0)
            fail("send: %s", strerror(errno));
        bytes += n;
        length -= n;
    }
}

/* Read more behind what is there; return how much, 0 if the server has closed. */
static size_t fill(struct client *c)
{
    if (c->from == c->to)
        c->from = c->to = 0;
    if (c->to == BUFFER) {
        if (!c->from)
            fail("a line of more than %d octets", BUFFER);
        memmove(c->buffer, c->buffer + c->from, c->to - c->from);
        c->to -= c->from;
        c->from = 0;
    }
    ssize_t n = recv(c->fd, c->buffer + c->to, BUFFER - c->to, 0);
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
        fail("no reply within %d seconds", PATIENCE);
    if (n < 0)
        fail("recv: %s", strerror(errno));
    c->to += n;
    return n;
}

/* Return the next line, which is valid until the next call; its length without CRLF. */
static inline char *line(struct client *c, size_t *length)
{
    size_t seen = 0;
    for (;;) {
        char *start = c->buffer + c->from;
        char *end = memchr(start + seen, '\n', c->to - c->from - seen);
        if (end) {
            if (end == start || end[-1] != '\r')
                fail("a line that does not end with CRLF: %.*s", (int)(end - start), start);
            c->from += end - start + 1;
            *length = end - start - 1;
            return start;
        }
        seen = c->to - c->from;
        if (!fill(c))
            fail("closed by the server in mid-reply");
    }
}

/* ---- replies ---- */

/* Read a status line, which must be positive; return what is behind "+OK", in `text`. */
static void ok(struct client *c, const char *command, char *text, size_t room)
{
    size_t length;
    char *reply = line(c, &length);
    if (length < 3 || memcmp(reply, "+OK", 3) || (length > 3 && reply[3] != ' '))
        fail("%s was answered: %.*s", command, (int)length, reply);
    if (text)
        snprintf(text, room, "%.*s", (int)length - 3, reply + 3);
}

static void ask(struct client *c, const char *command, const char *argument)
{
    char request[128];
    int length = snprintf(request, sizeof request, "%s%s%s\r\n", command, *argument ? " " : "", argument);
    put(c, request, length);
    ok(c, command, NULL, 0);
}

/* Read a line of a multi-line response; NULL at the terminator.  Undoes dot-stuffing. */
static inline char *body_line(struct client *c, size_t *length)
{
    char *at = line(c, length);
    if (!*length || *at != '.')
        return at;
    if (*length == 1)
        return NULL;
    if (at[1] != '.')
        fail("a line that starts with one dot: %.*s", (int)*length, at);
    --*length;
    return at + 1;
}

static void count_is(struct client *c, const char *command, long count)
{
    if (option.messages >= 0 && count != option.messages)
        fail("%s tells of %ld messages, there are %ld", command, count, option.messages);
    if (c->total >= 0 && count != c->total)
        fail("%s tells of %ld messages, and before it were %ld", command, count, c->total);
    c->total = count;
}

static void stat_(struct client *c)
{
    char text[128], rest;
    long count, octets;
    put(c, "STAT\r\n", 6);
    ok(c, "STAT", text, sizeof text);
    if (sscanf(text, " %ld %ld%c", &count, &octets, &rest) < 2)
        fail("STAT was answered: +OK%s", text);
    count_is(c, "STAT", count);
}

/* Read a listing of the messages from 1 on; keep the sizes if they are such. */
static void listing(struct client *c, const char *command, int sizes)
{
    long count = 0, room = 0;
    size_t length;
    char request[8], *at;
    put(c, request, snprintf(request, sizeof request, "%s\r\n", command));
    ok(c, command, NULL, 0);
    while ((at = body_line(c, &length))) {
        char *value, *end;
        if (strtol(at, &value, 10) != ++count || *value++ != ' ')
            fail("%s, where message %ld should be: %.*s", command, count, (int)length, at);
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
            fail("LIST says of message %ld: %.*s", count, (int)length, at);
    }
    count_is(c, command, count);
}

/* Read the reply to RETR; its octets must be those that LIST told (RFC 1939 section 11). */
static void message(struct client *c, long number)
{
    long octets = 0, lines = 0;
    size_t length;
    ok(c, "RETR", NULL, 0);
    while (body_line(c, &length)) {
        octets += length + 2;
        lines++;
    }
    /* A server that tells the size of the file has counted each line's end as one octet:
       wrong, but it can be held to it. */
    long told = c->sizes[number - 1] + (option.bare ? lines : 0);
    if (octets != told)
        fail("RETR %ld has %ld octets, and %ld were told", number, octets, told);
    c->octets += octets;
}

/* Read the reply to TOP n 0: the header and the empty line behind it, nothing more. */
static void header(struct client *c, long number)
{
    long octets = 0, lines = 0, empty = 0, last = 0;
    size_t length;
    ok(c, "TOP", NULL, 0);
    while (body_line(c, &length)) {
        octets += length + 2;
        lines++;
        empty += !length;
        last = !length;
    }
    if (empty != 1 || !last)
        fail("TOP %ld 0 does not end with the header's end", number);
    if (octets > c->sizes[number - 1] + (option.bare ? lines : 0))
        fail("TOP %ld 0 has more octets than the message", number);
    c->octets += octets;
}

/* ---- sessions ---- */

static void begin(struct client *c)
{
    dial(c);
    c->total = -1;
    ok(c, "the connection", NULL, 0);
}

static void login(struct client *c)
{
    begin(c);
    ask(c, "USER", c->user);
    ask(c, "PASS", option.password);
}

static void quit(struct client *c)
{
    ask(c, "QUIT", "");
    if (c->from != c->to || fill(c))
        fail("octets behind the reply to QUIT: %.*s", (int)(c->to - c->from), c->buffer + c->from);
    close(c->fd);
    c->fd = -1;
}

static void login_and_list(struct client *c)
{
    login(c);
    listing(c, "LIST", 1);
    if (!c->total)
        fail("there are no messages to read");
}

/* Keep up to `depth` commands in flight; sent anew when half of them are answered, for
   one at a time would make a write for each. */
static void keep_in_flight(struct client *c, const char *command, const char *argument)
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
    put(c, requests, length);
}

/* What is done again and again; each returns how many operations it was. */

static long one_connect(struct client *c)
{
    begin(c);
    close(c->fd);
    c->fd = -1;
    return 1;
}

static long one_login(struct client *c)
{
    login(c);
    stat_(c);
    quit(c);
    return 1;
}

static long one_poll(struct client *c)
{
    login(c);
    listing(c, "UIDL", 0);
    listing(c, "LIST", 1);
    quit(c);
    return 1;
}

static long one_retr(struct client *c)
{
    keep_in_flight(c, "RETR", "");
    message(c, c->done++ % c->total + 1);
    return 1;
}

static long one_top(struct client *c)
{
    keep_in_flight(c, "TOP", " 0");
    header(c, c->done++ % c->total + 1);
    return 1;
}

static long one_noop(struct client *c)
{
    keep_in_flight(c, "NOOP", NULL);
    ok(c, "NOOP", NULL, 0);
    c->done++;
    return 1;
}

static long one_dele(struct client *c)
{
    char number[32];
    for (long n = 1; n <= c->total; n++) {
        snprintf(number, sizeof number, "RETR %ld\r\n", n);
        put(c, number, strlen(number));
        message(c, n);
        snprintf(number, sizeof number, "%ld", n);
        ask(c, "DELE", number);
    }
    quit(c);
    return c->total;
}

static const struct kind {
    const char *name;
    void (*prepare)(struct client *);
    long (*one)(struct client *);
} kinds[] = {
    {"connect", NULL, one_connect},
    {"login", NULL, one_login},
    {"poll", NULL, one_poll},
    {"retr", login_and_list, one_retr},
    {"top", login_and_list, one_top},
    {"dele", login_and_list, one_dele},
    {"noop", login, one_noop},
    {"idle", NULL, NULL}, /* see idle() */
};
static const struct kind *kind;

static void name_client(struct client *c, int number)
{
    const char *hash = strchr(option.user, '#');
    c->number = number;
    if (hash)
        snprintf(c->user, sizeof c->user, "%.*s%d%s", (int)(hash - option.user), option.user, number, hash + 1);
    else
        snprintf(c->user, sizeof c->user, "%s", option.user);
}

static void *work(void *argument)
{
    struct client *c = argument;
    if (kind->prepare)
        kind->prepare(c);
    for (int n = 0; n < option.warm; n++)
        kind->one(c);
    c->octets = 0;
    pthread_barrier_wait(&ready);
    pthread_barrier_wait(&go);
    double before = now();
    for (long calls = 0; !option.calls || calls < option.calls; calls++) {
        if (calls && deadline && before >= deadline)
            break;
        c->operations += kind->one(c);
        double after = now();
        if (after - before > c->slowest)
            c->slowest = after - before;
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
            fail("no thread for client %d", n);
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

    long operations = 0, octets = 0;
    double slowest = 0;
    for (int n = 0; n < option.clients; n++) {
        operations += clients[n].operations;
        octets += clients[n].octets;
        if (clients[n].slowest > slowest)
            slowest = clients[n].slowest;
    }
    printf("{\"operations\": %ld, \"seconds\": %.6f, \"client\": %.6f, \"octets\": %ld, \"slowest\": %.6f}\n",
           operations, seconds, cpu, octets, slowest);
    wait_for_line();
    draining = 1;
    for (int n = 0; n < option.clients; n++) {
        while (clients[n].done < clients[n].sent)
            kind->one(&clients[n]);
        if (clients[n].fd >= 0)
            quit(&clients[n]);
    }
}

/* Sessions that do nothing: each line of the input says how many there shall be. */
static void idle(void)
{
    struct client c = {.fd = -1, .buffer = malloc(BUFFER)};
    int open = 0, wanted;
    puts("ready");
    while (scanf("%d", &wanted) == 1) {
        for (; open < wanted; open++) {
            name_client(&c, open);
            login(&c); /* the descriptor is kept by nobody, and open until the end */
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
        {"bare", 0, 0, 'b'},  {0, 0, 0, 0},
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
        default: return 2;
        }
    for (size_t n = 0; optind < argc && n < sizeof kinds / sizeof *kinds; n++)
        if (!strcmp(kinds[n].name, argv[optind]))
            kind = &kinds[n];
    if (!kind || !option.port || !option.user || option.clients < 1 || option.depth < 1 ||
        !(option.seconds || option.calls || !kind->one)) {
        fputs("usage: load KIND --port N --user NAME (--seconds S | --calls N) [options]\n", stderr);
        return 2;
    }
    setvbuf(stdout, NULL, _IOLBF, 0); /* run.py reads it through a pipe, line by line */
    if (kind->one)
        measure();
    else
        idle();
    return 0;
}
