// A load generator for small answers and for streams: one thread, epoll, a closed loop per client.
//
//   loader port=N path=/p request=FILE headers=FILE clients=N (window_ms=N [warmup_ms=N] | requests=N)
//          [markers=N] [stream=1] [ramp_ms=N] [limit_ms=N]
//
// Each client keeps one connection and sends the next request when the last answer is complete.
// With `window_ms`, answers that complete inside the window (after the warm-up) count, and calls still
// running at its end are waited for: rates are those of the steady state, and nobody is hung up on.
// With `requests`, that many are made. `ramp_ms` spreads the first starts evenly.
// An answer counts as good if its status is 200, it is framed correctly, it holds exactly `markers`
// times the text "tok-", and, of a stream, the text "[DONE]". Prints one JSON object.
// Latency runs from the request's send() to the recv() that completed the answer; the first chunk is
// the recv() that brought the first marker.

#define _GNU_SOURCE
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { HEAD_SIZE = 16 * 1024, READ_SIZE = 256 * 1024, EVENTS = 256, MOST_ERRORS = 1000 };

typedef enum { IDLE, HEAD, SIZED, CHUNK_SIZE, CHUNK_DATA, CHUNK_END, TRAILER, COMPLETE } State;

typedef struct {
    int fd, status, closing, markers, done, marker_at, done_at, bad_framing;
    State state;
    size_t head_used, remaining, line_used;
    int64_t due, begun, first;
    char line[32], head[HEAD_SIZE + 1];
} Client;

typedef struct {
    float *us;
    size_t used, room;
} Samples;

static int port = 0, client_count = 1, want_markers = 1, want_done = 0;
static int64_t warmup = 0, window = 0, ramp = 0, limit = INT64_C(120000000000), requests = 0;
static const char *path = "/", *request_file = NULL, *headers_file = NULL;
static char *request;
static size_t request_size;
static int poller, running = 0;
static int64_t window_begin, window_end, issued = 0, completed = 0, in_window = 0, errors = 0, reconnects = 0, chunks = 0;
static char first_error[256];
static Samples latency, first_chunk;

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

static void add(Samples *s, int64_t ns) {
    if (s->used == s->room) {
        s->room = s->room ? 2 * s->room : 65536;
        if (!(s->us = realloc(s->us, s->room * sizeof *s->us))) fail("realloc");
    }
    s->us[s->used++] = (float)ns / 1000;
}

static int by_value(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static void print_samples(const char *name, Samples *s) {
    if (!s->used) return;
    qsort(s->us, s->used, sizeof *s->us, by_value);
    double sum = 0;
    for (size_t i = 0; i < s->used; i++) sum += s->us[i];
    // Nearest rank: the smallest sample that at least this share of all samples does not exceed.
    size_t p50 = (s->used * 50 + 99) / 100 - 1, p90 = (s->used * 90 + 99) / 100 - 1, p99 = (s->used * 99 + 99) / 100 - 1;
    printf(",\"%s\":{\"count\":%zu,\"mean\":%.1f,\"p50\":%.1f,\"p90\":%.1f,\"p99\":%.1f,\"max\":%.1f}", name, s->used,
           sum / (double)s->used, s->us[p50], s->us[p90], s->us[p99], s->us[s->used - 1]);
}

static char *read_file(const char *name, size_t *size) {
    FILE *file = fopen(name, "rb");
    if (!file) fail(name);
    char *text = malloc(1 << 20);
    if (!text) fail("malloc");
    *size = fread(text, 1, (1 << 20) - 1, file);
    text[*size] = 0;
    fclose(file);
    return text;
}

static void build_request(void) {
    size_t body_size = 0, header_size = 0;
    char *body = read_file(request_file, &body_size), *headers = read_file(headers_file, &header_size);
    request = malloc(body_size + header_size + 1024);
    if (!request) fail("malloc");
    int head = snprintf(request, header_size + 1024,
                        "POST %s HTTP/1.1\r\nhost: 127.0.0.1:%d\r\ncontent-type: application/json\r\n"
                        "content-length: %zu\r\n%s\r\n", path, port, body_size, headers);
    memcpy(request + head, body, body_size);
    request_size = (size_t)head + body_size;
    free(body);
    free(headers);
}

static void remember(const char *what, const Client *c) {
    errors++;
    if (first_error[0]) return;
    snprintf(first_error, sizeof first_error, "%s: %.200s", what, c->head);
    for (char *at = first_error; *at; at++)
        if (!isprint((unsigned char)*at) || *at == '"' || *at == '\\') *at = ' ';
}

static void connect_client(Client *c) {
    int on = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&address, sizeof address)) fail("connect");
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, c->fd, &e)) fail("epoll_ctl");
}

static void reconnect(Client *c) {
    close(c->fd);
    reconnects++;
    connect_client(c);
}

static int may_begin(int64_t now) {
    return errors < MOST_ERRORS && (requests ? issued < requests : now < window_end);
}

static void begin(Client *c, int64_t now) {
    int was_running = c->state != IDLE, runs = may_begin(now);
    running += runs - was_running;
    c->state = IDLE;
    if (!runs) return;
    issued++;
    c->state = HEAD;
    c->head_used = c->line_used = 0;
    c->head[0] = 0;
    c->markers = c->done = c->marker_at = c->done_at = c->status = c->bad_framing = 0;
    c->first = 0;
    c->begun = now_ns();
    // A request is about 1 KB and the socket is empty: it is taken whole, or the connection is gone,
    // which the next recv() will tell.
    (void)!send(c->fd, request, request_size, MSG_NOSIGNAL);
}

static void scan(Client *c, const char *data, size_t size, int64_t now) {
    static const char marker[] = "tok-", done[] = "[DONE]";
    for (size_t i = 0; i < size; i++) {
        char byte = data[i];
        c->marker_at = byte == marker[c->marker_at] ? c->marker_at + 1 : byte == marker[0];
        c->done_at = byte == done[c->done_at] ? c->done_at + 1 : byte == done[0];
        if (c->marker_at == sizeof marker - 1) {
            if (!c->markers++) c->first = now;
            c->marker_at = 0;
        }
        if (c->done_at == sizeof done - 1) {
            c->done = 1;
            c->done_at = 0;
        }
    }
}

static void read_head(Client *c) {
    int sized = 0, chunked = 0;
    c->closing = 0;
    sscanf(c->head, "HTTP/1.1 %d", &c->status);
    for (char *line = strstr(c->head, "\r\n"); line; line = strstr(line + 2, "\r\n")) {
        if (!strncasecmp(line + 2, "content-length:", 15)) {
            sized = 1;
            c->remaining = strtoul(line + 17, NULL, 10);
        }
        if (!strncasecmp(line + 2, "transfer-encoding: chunked", 26)) chunked = 1;
        if (!strncasecmp(line + 2, "connection: close", 17)) c->closing = 1;
    }
    if (chunked) c->state = CHUNK_SIZE;
    else if (sized) c->state = c->remaining ? SIZED : COMPLETE;
    else c->bad_framing = 1;
}

// Consumes one step of the answer; returns how many bytes it took.
static size_t step(Client *c, const char *data, size_t size, int64_t now) {
    size_t take = size;
    if (c->state == HEAD) {
        size_t room = HEAD_SIZE - c->head_used, before = c->head_used;
        if (take > room) take = room;
        memcpy(c->head + c->head_used, data, take);
        c->head_used += take;
        c->head[c->head_used] = 0;
        char *end = strstr(c->head, "\r\n\r\n");
        if (!end) {
            c->bad_framing = c->head_used == HEAD_SIZE;
            return take;
        }
        take = (size_t)(end + 4 - c->head) - before;
        end[2] = 0;
        read_head(c);
        end[2] = '\r';
    } else if (c->state == SIZED || c->state == CHUNK_DATA) {
        if (take > c->remaining) take = c->remaining;
        scan(c, data, take, now);
        c->remaining -= take;
        if (!c->remaining) c->state = c->state == SIZED ? COMPLETE : CHUNK_END;
    } else {  // A line: the size of a chunk, the end of one, or a trailer.
        char *newline = memchr(data, '\n', size);
        if (newline) take = (size_t)(newline - data) + 1;
        size_t room = sizeof c->line - 1 - c->line_used, keep = take < room ? take : room;
        memcpy(c->line + c->line_used, data, keep);
        c->line_used += keep;
        c->line[c->line_used] = 0;
        if (!newline) return take;
        int empty = c->line[0] == '\r' || c->line[0] == '\n';
        c->line_used = 0;
        if (c->state == CHUNK_END) {
            c->bad_framing = !empty;
            c->state = CHUNK_SIZE;
        } else if (c->state == TRAILER) {
            if (empty) c->state = COMPLETE;
        } else {
            c->bad_framing = !isxdigit((unsigned char)c->line[0]);
            c->remaining = strtoul(c->line, NULL, 16);
            c->state = c->remaining ? CHUNK_DATA : TRAILER;
        }
    }
    return take;
}

static void finish(Client *c, int64_t now) {
    const char *wrong = c->status != 200                 ? "status is not 200"
                        : c->markers != want_markers ? "wrong number of chunks"
                        : want_done && !c->done      ? "stream without [DONE]"
                                                     : NULL;
    if (wrong) {
        remember(wrong, c);
    } else {
        completed++;
        chunks += c->markers;
        if (requests || (now >= window_begin && now < window_end)) {
            in_window++;
            add(&latency, now - c->begun);
            if (want_done) add(&first_chunk, c->first - c->begun);
        }
    }
    if (c->closing) reconnect(c);
    begin(c, now);
}

static void readable(Client *c) {
    static char buffer[READ_SIZE];
    ssize_t got = recv(c->fd, buffer, sizeof buffer, 0);
    int64_t now = now_ns();
    if (got < 0 && errno == EAGAIN) return;
    if (got > 0 && c->state != IDLE) {
        size_t used = 0;
        while (used < (size_t)got && c->state != COMPLETE && !c->bad_framing)
            used += step(c, buffer + used, (size_t)got - used, now);
        if (c->state == COMPLETE && used == (size_t)got) {
            finish(c, now);
            return;
        }
        if (c->state != COMPLETE && !c->bad_framing) return;
        c->bad_framing = 1;
    }
    // An idle connection may be closed by the server; everything else that ends here is an error.
    if (c->state != IDLE) remember(c->bad_framing ? "framing is wrong" : "answer was cut off", c);
    reconnect(c);
    begin(c, now);
}

static void option(char *text) {
    char *value = strchr(text, '=');
    if (!value) exit(2);
    *value++ = 0;
    int64_t number = atoll(value);
    if (!strcmp(text, "port")) port = (int)number;
    else if (!strcmp(text, "path")) path = value;
    else if (!strcmp(text, "request")) request_file = value;
    else if (!strcmp(text, "headers")) headers_file = value;
    else if (!strcmp(text, "clients")) client_count = (int)number;
    else if (!strcmp(text, "warmup_ms")) warmup = number * 1000000;
    else if (!strcmp(text, "window_ms")) window = number * 1000000;
    else if (!strcmp(text, "requests")) requests = number;
    else if (!strcmp(text, "markers")) want_markers = (int)number;
    else if (!strcmp(text, "stream")) want_done = (int)number;
    else if (!strcmp(text, "ramp_ms")) ramp = number * 1000000;
    else if (!strcmp(text, "limit_ms")) limit = number * 1000000;
    else {
        fprintf(stderr, "unknown option %s\n", text);
        exit(2);
    }
}

static void run(Client *clients) {
    int64_t started = now_ns(), now;
    int next = 0;  // the first client that has not begun yet
    struct epoll_event events[EVENTS];
    window_begin = started + warmup;
    window_end = window_begin + window;
    for (int i = 0; i < client_count; i++) clients[i].due = started + ramp * i / client_count;
    for (;;) {
        now = now_ns();
        while (next < client_count && clients[next].due <= now) begin(&clients[next++], now);
        if (next == client_count && !running) break;
        if (now - started > limit) {
            errors += running;
            snprintf(first_error, sizeof first_error, "%d calls were not done in time", running);
            break;
        }
        int64_t wait = next < client_count ? clients[next].due - now : INT64_C(100000000);
        int count = epoll_wait(poller, events, EVENTS, (int)((wait + 999999) / 1000000));
        for (int i = 0; i < count; i++) readable(events[i].data.ptr);
    }
    double seconds = (double)(requests ? now - started : window) / 1e9;
    printf("{\"completed\":%lld,\"errors\":%lld,\"first_error\":\"%s\",\"reconnects\":%lld,\"chunks\":%lld,"
           "\"seconds\":%.6f,\"per_second\":%.3f", (long long)completed, (long long)errors, first_error,
           (long long)reconnects, (long long)chunks, seconds, (double)in_window / seconds);
    print_samples("latency_us", &latency);
    print_samples("first_chunk_us", &first_chunk);
    printf("}\n");
}

int main(int argc, char **argv) {
    for (int i = 1; i < argc; i++) option(argv[i]);
    if (!port || !request_file || !headers_file || (!requests && !window)) {
        fprintf(stderr, "port, request, headers and one of window_ms and requests are needed\n");
        return 2;
    }
    build_request();
    poller = epoll_create1(EPOLL_CLOEXEC);
    Client *clients = calloc((size_t)client_count, sizeof *clients);
    if (!clients) fail("calloc");
    for (int i = 0; i < client_count; i++) connect_client(&clients[i]);
    run(clients);
    return 0;
}
