// A fake OpenAI upstream that costs as little as possible: one thread, epoll, HTTP/1.1 with keep-alive.
//
//   upstream PORT [CHUNKS] [INTERVAL_US]
//
// POST with `"stream":true` in the body: CHUNKS server-sent events, the first with the head, then one
// each INTERVAL_US on an absolute schedule, so that lateness does not add up; one interval after the
// last, a usage event if `"include_usage":true` was asked for, `[DONE]`, and the end of the chunked
// body. Any other POST: a chat completion of 0.45 KB with usage. GET: a model list.
// Every event carries a marker of its own (`tok-0001`), by which the loader counts them: proxies that
// write events anew may change everything around it.

#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum { IN_SIZE = 64 * 1024, OUT_SIZE = 256 * 1024, EVENTS = 256, BACKLOG = 4096 };

typedef struct Connection {
    int fd;
    int want_write, with_usage;
    size_t in_used, out_used, out_sent;
    char *out;  // what the socket would not take; allocated when first needed
    int64_t started;
    int next_chunk;  // -1: no stream is running
    struct Connection *before, *after;  // in the queue of streams, by their next deadline
    char in[IN_SIZE];
} Connection;

static int poller, timer, listener;
static int chunk_count = 200;
static int64_t interval = 5000000;
static Connection queue = {.before = &queue, .after = &queue};

static const char ANSWER[] =
    "{\"id\":\"chatcmpl-0123456789abcdefghijklmnop\",\"object\":\"chat.completion\",\"created\":1700000000,"
    "\"model\":\"bench\",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"tok-0000 The sky "
    "is blue because air scatters short waves of sunlight far more than long ones.\",\"refusal\":null},"
    "\"logprobs\":null,\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":24,\"completion_tokens\":18,"
    "\"total_tokens\":42},\"service_tier\":\"default\",\"system_fingerprint\":\"fp_0123456789\"}";
static const char MODELS[] =
    "{\"object\":\"list\",\"data\":[{\"id\":\"bench\",\"object\":\"model\",\"created\":1700000000,\"owned_by\":\"bench\"}]}";
static const char STREAM_HEAD[] =
    "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ncache-control: no-cache\r\n"
    "transfer-encoding: chunked\r\n\r\n";
static const char EVENT[] =
    "data: {\"id\":\"chatcmpl-0123456789abcdefghijklmnop\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,"
    "\"model\":\"bench\",\"choices\":[{\"index\":0,\"delta\":{%s\"content\":\"tok-%04d \"},\"logprobs\":null,"
    "\"finish_reason\":null}]}\n\n";
static const char LAST_EVENT[] =
    "data: {\"id\":\"chatcmpl-0123456789abcdefghijklmnop\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,"
    "\"model\":\"bench\",\"choices\":[{\"index\":0,\"delta\":{},\"logprobs\":null,\"finish_reason\":\"stop\"}]}\n\n";
static const char USAGE_EVENT[] =
    "data: {\"id\":\"chatcmpl-0123456789abcdefghijklmnop\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,"
    "\"model\":\"bench\",\"choices\":[],\"usage\":{\"prompt_tokens\":24,\"completion_tokens\":%d,\"total_tokens\":%d}}\n\n";

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

static void watch(Connection *c, int want_write) {
    if (c->want_write == want_write) return;
    c->want_write = want_write;
    struct epoll_event e = {.events = EPOLLIN | (want_write ? EPOLLOUT : 0), .data.ptr = c};
    epoll_ctl(poller, EPOLL_CTL_MOD, c->fd, &e);
}

static void leave_queue(Connection *c) {
    if (c->next_chunk < 0) return;
    c->before->after = c->after;
    c->after->before = c->before;
    c->next_chunk = -1;
}

static void join_queue(Connection *c, int next_chunk) {
    // All streams have the same interval, so whoever was served last is due last: a queue is a schedule.
    c->next_chunk = next_chunk;
    c->before = queue.before;
    c->after = &queue;
    queue.before->after = c;
    queue.before = c;
}

static void hang_up(Connection *c) {
    leave_queue(c);
    close(c->fd);
    free(c->out);
    free(c);
}

// Returns -1 when the peer is gone or so slow that its answers no longer fit; the caller hangs up.
static int send_bytes(Connection *c, const char *data, size_t size) {
    if (c->out_used == c->out_sent) {
        ssize_t sent = send(c->fd, data, size, MSG_NOSIGNAL);
        if (sent < 0 && errno != EAGAIN) return -1;
        if (sent < 0) sent = 0;
        data += sent;
        size -= (size_t)sent;
        c->out_used = c->out_sent = 0;
    }
    if (size == 0) return 0;
    if (!c->out && !(c->out = malloc(OUT_SIZE))) fail("malloc");
    if (c->out_used + size > OUT_SIZE) return -1;
    memcpy(c->out + c->out_used, data, size);
    c->out_used += size;
    watch(c, 1);
    return 0;
}

static int flush(Connection *c) {
    ssize_t sent = send(c->fd, c->out + c->out_sent, c->out_used - c->out_sent, MSG_NOSIGNAL);
    if (sent < 0) return errno == EAGAIN ? 0 : -1;
    c->out_sent += (size_t)sent;
    if (c->out_sent == c->out_used) watch(c, 0);
    return 0;
}

static int answer(Connection *c, const char *body) {
    char out[2048];
    int size = snprintf(out, sizeof out,
                        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %zu\r\n\r\n%s",
                        strlen(body), body);
    return send_bytes(c, out, (size_t)size);
}

static size_t put_chunk(char *out, const char *event) {
    return (size_t)sprintf(out, "%zx\r\n%s\r\n", strlen(event), event);
}

static int send_chunk(Connection *c, int number) {
    char event[1024], out[4096];
    size_t size = 0;
    if (number == 0) size += (size_t)sprintf(out, "%s", STREAM_HEAD);
    if (number < chunk_count) {
        snprintf(event, sizeof event, EVENT, number == 0 ? "\"role\":\"assistant\"," : "", number);
        size += put_chunk(out + size, event);
        return send_bytes(c, out, size);
    }
    size += put_chunk(out + size, LAST_EVENT);
    if (c->with_usage) {
        snprintf(event, sizeof event, USAGE_EVENT, chunk_count, 24 + chunk_count);
        size += put_chunk(out + size, event);
    }
    size += put_chunk(out + size, "data: [DONE]\n\n");
    size += (size_t)sprintf(out + size, "0\r\n\r\n");
    return send_bytes(c, out, size);
}

static int has(const char *text, const char *name, const char *value) {
    for (const char *at = text; (at = strstr(at, name)); at++) {
        const char *after = at + strlen(name);
        while (*after == ' ' || *after == ':') after++;
        if (!strncmp(after, value, strlen(value))) return 1;
    }
    return 0;
}

// Serves one complete request at the start of the buffer. 1: served, 0: not all here yet, -1: hang up.
static int serve(Connection *c) {
    c->in[c->in_used] = 0;
    char *end = strstr(c->in, "\r\n\r\n");
    if (!end) return c->in_used >= IN_SIZE - 1 ? -1 : 0;
    char *body = end + 4;
    size_t length = 0;
    int is_get = !strncmp(c->in, "GET ", 4);
    *end = 0;
    for (char *line = strstr(c->in, "\r\n"); line; line = strstr(line + 2, "\r\n")) {
        if (!strncasecmp(line + 2, "content-length:", 15)) length = strtoul(line + 17, NULL, 10);
        if (!strncasecmp(line + 2, "transfer-encoding:", 18)) return -1;  // Every proxy here knows the length.
    }
    *end = '\r';
    size_t total = (size_t)(body - c->in) + length;
    if (total >= IN_SIZE) return -1;
    if (c->in_used < total) return 0;
    char kept = c->in[total];
    c->in[total] = 0;
    int stream = has(body, "\"stream\"", "true");
    c->with_usage = has(body, "\"include_usage\"", "true");
    c->in[total] = kept;
    memmove(c->in, c->in + total, c->in_used - total);
    c->in_used -= total;
    if (is_get) return answer(c, MODELS) < 0 ? -1 : 1;
    if (!stream) return answer(c, ANSWER) < 0 ? -1 : 1;
    c->started = now_ns();
    if (send_chunk(c, 0) < 0) return -1;
    join_queue(c, 1);
    return 1;
}

static void readable(Connection *c) {
    ssize_t got = recv(c->fd, c->in + c->in_used, IN_SIZE - 1 - c->in_used, 0);
    if (got == 0 || (got < 0 && errno != EAGAIN)) {
        hang_up(c);
        return;
    }
    if (got < 0) return;
    c->in_used += (size_t)got;
    while (c->in_used && c->next_chunk < 0) {
        int served = serve(c);
        if (served < 0) hang_up(c);
        if (served <= 0) return;
    }
}

static void serve_streams(void) {
    int64_t now = now_ns();
    while (queue.after != &queue) {
        Connection *c = queue.after;
        int number = c->next_chunk;
        if (c->started + number * interval > now) break;
        leave_queue(c);
        if (send_chunk(c, number) < 0) {
            hang_up(c);
        } else if (number < chunk_count) {
            join_queue(c, number + 1);
        }
    }
    if (queue.after == &queue) return;
    int64_t due = queue.after->started + queue.after->next_chunk * interval;
    struct itimerspec at = {.it_value = {.tv_sec = due / 1000000000, .tv_nsec = due % 1000000000}};
    timerfd_settime(timer, TFD_TIMER_ABSTIME, &at, NULL);
}

static void welcome(void) {
    int fd, on = 1;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        Connection *c = calloc(1, sizeof *c);
        if (!c) fail("calloc");
        c->fd = fd;
        c->next_chunk = -1;
        struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
        epoll_ctl(poller, EPOLL_CTL_ADD, fd, &e);
    }
}

int main(int argc, char **argv) {
    if (argc < 2) {
        fprintf(stderr, "usage: upstream PORT [CHUNKS] [INTERVAL_US]\n");
        return 2;
    }
    if (argc > 2) chunk_count = atoi(argv[2]);
    if (argc > 3) interval = atoll(argv[3]) * 1000;
    int on = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argv[1])),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, BACKLOG)) fail("listen");
    timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    poller = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = &listener};
    epoll_ctl(poller, EPOLL_CTL_ADD, listener, &e);
    e.data.ptr = &timer;
    epoll_ctl(poller, EPOLL_CTL_ADD, timer, &e);
    struct epoll_event events[EVENTS];
    for (;;) {
        int count = epoll_wait(poller, events, EVENTS, -1), fresh = 0;
        if (count < 0 && errno != EINTR) fail("epoll_wait");
        // Connections first: serving the streams may free one that has an event waiting in this batch.
        for (int i = 0; i < count; i++) {
            Connection *c = events[i].data.ptr;
            if (events[i].data.ptr == &listener) {
                fresh = 1;
            } else if (events[i].data.ptr == &timer) {
                uint64_t ticks;
                (void)!read(timer, &ticks, sizeof ticks);
            } else if ((events[i].events & EPOLLOUT) && flush(c) < 0) {
                hang_up(c);
            } else if (events[i].events & ~(uint32_t)EPOLLOUT) {
                readable(c);
            }
        }
        if (fresh) welcome();
        serve_streams();
    }
}
