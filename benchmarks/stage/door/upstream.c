/* An engine that costs nothing: answers as llama-server does, byte for byte in form, and at once.
 *
 *     upstream PORT CHUNKS PACE
 *
 * A POST is answered with a chat completion, or, where its body asks for a stream, with CHUNKS tokens as server-sent
 * events, each in a write of its own as llama-server sends them. The model's name says how fast: "paced" anywhere in it
 * means PACE milliseconds from one token to the next, "burst" means all of them in one write; else one write follows the other.
 * Everything else (GET /health) is answered with `{"status":"ok"}`. Connections are kept until the client closes them.
 * One thread, epoll, no allocation after start. Prints `ready` when it listens.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define BUFFER 262144
#define MAX_FDS 8192
#define MAX_CHUNKS 4096

enum mode { IDLE, WRITES, PACED, WHOLE };

struct peer {
    int fd;
    char *in;          /* what came and is not yet a whole request */
    size_t have;
    enum mode mode;    /* of the answer that is being written */
    const char *out;   /* of WHOLE: the rest to write */
    size_t left;
    int part;          /* of a stream: the next part to write, and how much of it is out */
    size_t sent;
    uint64_t due;      /* of PACED: when that part may go */
    struct peer *next; /* in the queue of those who wait for their time */
    int queued, wants_out, gone;
};

static struct peer peers[MAX_FDS];
static struct peer *queue_head, *queue_tail;
static struct { const char *data; size_t size; } parts[MAX_CHUNKS + 3], answer, burst, health;
static int part_count, poll_fd;
static uint64_t pace; /* nanoseconds */

static uint64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

static void die(const char *what) { perror(what); exit(1); }

/* ---- what is answered ---- */

#define HEAD "HTTP/1.1 200 OK\r\nServer: llama.cpp\r\nAccess-Control-Allow-Origin: \r\n"
#define KEPT "Keep-Alive: timeout=5, max=100\r\n\r\n"
#define ABOUT "\"created\":1795268013,\"id\":\"chatcmpl-RdOoh1V9vwhWjWoSyp5OrUSRvle5u83d\",\"model\":\"bench\"," \
              "\"system_fingerprint\":\"b0-0c1e57098\",\"object\":\"chat.completion.chunk\""
#define TIMINGS "\"timings\":{\"cache_n\":31,\"prompt_n\":1,\"prompt_ms\":10.308,\"prompt_per_token_ms\":10.308," \
                "\"prompt_per_second\":97.01202949165696,\"predicted_n\":%d,\"predicted_ms\":35.288," \
                "\"predicted_per_token_ms\":17.644,\"predicted_per_second\":56.67649059170257}"

static void add_part(const char *head, const char *events, int last) {
    char *text = malloc(strlen(head) + strlen(events) + 64);
    int size = sprintf(text, "%s%zx\r\n%s\r\n%s", head, strlen(events), events, last ? "0\r\n\r\n" : "");
    parts[part_count].data = text;
    parts[part_count++].size = (size_t)size;
}

static void prepare(int chunks) {
    char body[4096], whole[8192];
    int size = sprintf(body,
        "{\"choices\":[{\"finish_reason\":\"stop\",\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":"
        "\"Hello! How can I help you today?\"}}],\"created\":1795268013,\"model\":\"bench\",\"system_fingerprint\":"
        "\"b0-0c1e57098\",\"object\":\"chat.completion\",\"usage\":{\"completion_tokens\":9,\"prompt_tokens\":32,"
        "\"total_tokens\":41,\"prompt_tokens_details\":{\"cached_tokens\":31}},"
        "\"id\":\"chatcmpl-tTThTgjz9K5V4NcfXSmksCHTpSwQA6nC\"," TIMINGS "}", 9);
    sprintf(whole, HEAD "Content-Type: application/json; charset=utf-8\r\nContent-Length: %d\r\n" KEPT "%s", size, body);
    answer.data = strdup(whole), answer.size = strlen(whole);
    health.data = HEAD "Content-Type: application/json\r\nContent-Length: 15\r\n" KEPT "{\"status\":\"ok\"}";
    health.size = strlen(health.data);

    const char *head = HEAD "X-Accel-Buffering: no\r\nContent-Type: text/event-stream\r\n"
                            "Transfer-Encoding: chunked\r\n" KEPT;
    const char *delta = "data: {\"choices\":[{\"finish_reason\":null,\"index\":0,\"delta\":{%s}}]," ABOUT "}\n\n";
    char events[4096];
    size = sprintf(events, delta, "\"role\":\"assistant\",\"content\":null");
    sprintf(events + size, delta, "\"content\":\"Hello\"");
    add_part(head, events, 0);
    for (int each = 1; each < chunks; each++) {
        char content[64];
        sprintf(content, "\"content\":\" %c%c%c\"", 'a' + each % 26, 'a' + each / 26 % 26, 'o');
        sprintf(events, delta, content);
        add_part("", events, 0);
    }
    sprintf(events, "data: {\"choices\":[{\"finish_reason\":\"stop\",\"index\":0,\"delta\":{}}]," ABOUT "," TIMINGS "}\n\n",
            chunks);
    add_part("", events, 0);
    add_part("", "data: [DONE]\n\n", 1);
    char *all = malloc((size_t)part_count * 1024);
    for (int each = 0; each < part_count; each++) {
        memcpy(all + burst.size, parts[each].data, parts[each].size);
        burst.size += parts[each].size;
    }
    burst.data = all;
}

/* ---- connections ---- */

static void watch(struct peer *peer, int wants_out) {
    if (peer->wants_out == wants_out) return;
    peer->wants_out = wants_out;
    struct epoll_event event = {.events = EPOLLIN | (wants_out ? EPOLLOUT : 0), .data.fd = peer->fd};
    if (epoll_ctl(poll_fd, EPOLL_CTL_MOD, peer->fd, &event)) die("epoll_ctl");
}

static void enqueue(struct peer *peer) {
    peer->next = NULL, peer->queued = 1;
    if (queue_tail) queue_tail->next = peer; else queue_head = peer;
    queue_tail = peer;
}

static void hang_up(struct peer *peer) {
    if (peer->queued) { /* the queue's turn will come */
        if (!peer->gone) epoll_ctl(poll_fd, EPOLL_CTL_DEL, peer->fd, NULL);
        peer->gone = 1;
        return;
    }
    close(peer->fd);
    peer->mode = IDLE, peer->have = 0, peer->gone = 0, peer->wants_out = 0;
}

/* Bytes written; -1 when the peer is gone. */
static ssize_t put(struct peer *peer, const char *data, size_t size) {
    ssize_t done = send(peer->fd, data, size, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (done < 0 && errno == EAGAIN) return 0;
    return done;
}

/* Writes as much of the answer as may go and as the peer takes. */
static void write_on(struct peer *peer) {
    if (peer->mode == WHOLE) {
        ssize_t done = put(peer, peer->out, peer->left);
        if (done < 0) { hang_up(peer); return; }
        peer->out += done, peer->left -= (size_t)done;
        if (!peer->left) peer->mode = IDLE;
        watch(peer, peer->left > 0);
        return;
    }
    while (peer->mode != IDLE) {
        size_t rest = parts[peer->part].size - peer->sent;
        ssize_t done = put(peer, parts[peer->part].data + peer->sent, rest);
        if (done < 0) { hang_up(peer); return; }
        if ((size_t)done < rest) { peer->sent += (size_t)done; watch(peer, 1); return; }
        peer->sent = 0;
        if (++peer->part == part_count) { peer->mode = IDLE; break; }
        if (peer->mode == PACED && peer->part < part_count - 2) { /* the finish and its mark follow at once */
            peer->due = now() + pace;
            watch(peer, 0);
            enqueue(peer);
            return;
        }
    }
    watch(peer, 0);
}

/* Chooses the answer. */
static void choose(struct peer *peer, const char *body, size_t size) {
    int stream = size && (memmem(body, size, "\"stream\":true", 13) || memmem(body, size, "\"stream\": true", 14));
    peer->part = 0, peer->sent = 0;
    if (stream && memmem(body, size, "paced", 5)) peer->mode = PACED;
    else if (stream && !memmem(body, size, "burst", 5)) peer->mode = WRITES;
    else {
        peer->mode = WHOLE;
        peer->out = stream ? burst.data : size ? answer.data : health.data;
        peer->left = stream ? burst.size : size ? answer.size : health.size;
    }
}

/* The length of a request's body, from its head; what is not understood ends the program: it is our own load. */
static size_t body_length(const char *head, const char *end) {
    for (const char *line = head; line < end; line = memchr(line, '\n', (size_t)(end - line)), line++) {
        if (!strncasecmp(line, "content-length:", 15)) return strtoul(line + 15, NULL, 10);
        if (!strncasecmp(line, "transfer-encoding:", 18)) { fputs("a chunked request\n", stderr); exit(1); }
    }
    return 0;
}

static void take_requests(struct peer *peer) {
    while (peer->have && peer->mode == IDLE) {
        char *end = memmem(peer->in, peer->have, "\r\n\r\n", 4);
        if (!end) break;
        size_t head = (size_t)(end + 4 - peer->in), body = body_length(peer->in, end + 2);
        if (head + body > BUFFER) { fputs("a request larger than the buffer\n", stderr); exit(1); }
        if (peer->have < head + body) break;
        choose(peer, peer->in + head, body);
        peer->have -= head + body;
        if (peer->have) memmove(peer->in, peer->in + head + body, peer->have);
        write_on(peer);
    }
}

static void readable(struct peer *peer) {
    ssize_t got = recv(peer->fd, peer->in + peer->have, BUFFER - peer->have, MSG_DONTWAIT);
    if (got < 0 && errno == EAGAIN) return;
    if (got <= 0) { hang_up(peer); return; }
    peer->have += (size_t)got;
    take_requests(peer);
}

static void accept_all(int listener) {
    for (;;) {
        int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0 && errno == EAGAIN) return;
        if (fd < 0 || fd >= MAX_FDS) die("accept4");
        int one = 1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        struct peer *peer = &peers[fd];
        char *in = peer->in ? peer->in : malloc(BUFFER);
        *peer = (struct peer){.fd = fd, .in = in};
        struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
        if (epoll_ctl(poll_fd, EPOLL_CTL_ADD, fd, &event)) die("epoll_ctl");
    }
}

/* Sends what is due; returns how long until the next is, NULL for no end. All wait equally long: the queue is sorted. */
static struct timespec *run_due(struct timespec *pause) {
    uint64_t time = now();
    while (queue_head && queue_head->due <= time) {
        struct peer *peer = queue_head;
        queue_head = peer->next, peer->queued = 0;
        if (!queue_head) queue_tail = NULL;
        if (peer->gone) { hang_up(peer); continue; }
        write_on(peer);
        if (peer->mode == IDLE) take_requests(peer);
    }
    if (!queue_head) return NULL;
    uint64_t left = queue_head->due > time ? queue_head->due - time : 0;
    *pause = (struct timespec){(time_t)(left / 1000000000ull), (long)(left % 1000000000ull)};
    return pause;
}

int main(int count, char **given) {
    if (count != 4 || atoi(given[2]) < 1 || atoi(given[2]) > MAX_CHUNKS || atoi(given[3]) < 1) {
        fputs("upstream PORT CHUNKS PACE\n", stderr);
        return 2;
    }
    pace = (uint64_t)atoi(given[3]) * (uint64_t)1000000;
    prepare(atoi(given[2]));
    struct rlimit files = {MAX_FDS, MAX_FDS};
    setrlimit(RLIMIT_NOFILE, &files);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), one = 1;
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(given[1]))};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 4096)) die("listen");
    poll_fd = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN, .data.fd = listener};
    if (epoll_ctl(poll_fd, EPOLL_CTL_ADD, listener, &event)) die("epoll_ctl");
    puts("ready");
    fflush(stdout);
    static struct epoll_event events[512];
    for (struct timespec pause;;) {
        int found = epoll_pwait2(poll_fd, events, 512, run_due(&pause), NULL);
        if (found < 0 && errno != EINTR) die("epoll_pwait2");
        for (int each = 0; each < found; each++) {
            if (events[each].data.fd == listener) { accept_all(listener); continue; }
            struct peer *peer = &peers[events[each].data.fd];
            if (peer->gone) continue;
            if (events[each].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) readable(peer);
            if ((events[each].events & EPOLLOUT) && peer->wants_out && peer->mode != IDLE) {
                write_on(peer);
                if (peer->mode == IDLE) take_requests(peer);
            }
        }
    }
}
