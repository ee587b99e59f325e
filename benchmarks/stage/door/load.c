/* Asks a server over HTTP/1.1 as fast as it answers, or so often a second, and checks every answer to its last byte.
 *
 *     load PORT REQUEST_FILE NAME=VALUE…
 *
 *   connections=1   kept open; each carries one request at a time
 *   seconds=1       of measuring, after
 *   warmup=0        seconds whose requests do not count
 *   events=0        each answer is a stream with at least so many events and `data: [DONE]`; 0: it is one JSON object
 *   pause=0         milliseconds before each request, at random from 0 to this: requests do not come in step
 *   rate=0          requests a second, whoever waits: a request's time counts from when it was due; 0: as fast as can be
 *   once=0          1: one request a connection, measured from the first to the last; `seconds` is then the limit
 *   window=0        a line of JSON every so many seconds, for that time alone; 0: one at the end
 *   timeout=60      seconds that a request may take
 *
 * The file holds one whole request, head and body. Prints JSON: requests, errors (and the first of them), rps, and in
 * milliseconds the 50th and 99th percentile of the time to the first byte of the body and to its last. One thread, epoll.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "answer.h"

#define MAX_CONNECTIONS 4096
#define READ_SIZE 262144
#define NEVER UINT64_MAX

struct connection {
    int fd, busy;
    size_t written;
    uint64_t begun, first, wake; /* nanoseconds; `wake`: when it asks again, or gives up */
    struct answer answer;
};

struct samples { uint32_t *us; size_t count, room; };

static long port, connections = 1, events, once, window, timeout = 60;
static double seconds = 1, warmup, pause_ms, rate;
static char *request;
static size_t request_size;
static struct connection *all;
static struct samples whole, first;
static unsigned long errors, started_once, finished_once;
static char error[300];
static uint64_t counting_from, window_from, ends;
static int poll_fd;

static uint64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

static void die(const char *what) { perror(what); exit(1); }

static void add(struct samples *to, uint64_t ns) {
    if (to->count == to->room) {
        to->room = to->room ? to->room * 2 : 65536;
        to->us = realloc(to->us, to->room * sizeof *to->us);
        if (!to->us) die("realloc");
    }
    uint64_t tenths = ns / 100; /* of a microsecond */
    to->us[to->count++] = tenths > UINT32_MAX ? UINT32_MAX : (uint32_t)tenths;
}

static int compare(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static double percentile_ms(struct samples *of, double percent) {
    if (!of->count) return 0;
    size_t at = (size_t)(percent / 100 * (double)of->count);
    return of->us[at < of->count ? at : of->count - 1] / 1e4;
}

static void report(uint64_t time) {
    double taken = (double)(time - window_from) / 1e9;
    qsort(whole.us, whole.count, sizeof *whole.us, compare);
    qsort(first.us, first.count, sizeof *first.us, compare);
    for (char *c = error; *c; c++) if (*c == '"' || *c == '\\' || (unsigned char)*c < 32) *c = '\'';
    printf("{\"seconds\": %.3f, \"requests\": %zu, \"errors\": %lu, \"error\": \"%s\", \"rps\": %.2f, "
           "\"ttft_p50_ms\": %.4f, \"ttft_p99_ms\": %.4f, \"p50_ms\": %.4f, \"p99_ms\": %.4f, \"max_ms\": %.4f}\n",
           taken, whole.count, errors, error, (double)whole.count / taken, percentile_ms(&first, 50),
           percentile_ms(&first, 99), percentile_ms(&whole, 50), percentile_ms(&whole, 99), percentile_ms(&whole, 100));
    fflush(stdout);
    whole.count = first.count = 0, errors = 0, error[0] = 0;
    window_from = time;
}

/* ---- who asks when: a heap of the idle, by their time, where they do not ask at once ---- */

static struct connection **heap;
static size_t heap_size;

static void push(struct connection *c) {
    size_t at = heap_size++;
    for (; at && heap[(at - 1) / 2]->wake > c->wake; at = (at - 1) / 2) heap[at] = heap[(at - 1) / 2];
    heap[at] = c;
}

static struct connection *pop(void) {
    struct connection *top = heap[0], *last = heap[--heap_size];
    size_t at = 0;
    for (size_t child; (child = 2 * at + 1) < heap_size; at = child) {
        if (child + 1 < heap_size && heap[child + 1]->wake < heap[child]->wake) child++;
        if (heap[child]->wake >= last->wake) break;
        heap[at] = heap[child];
    }
    heap[at] = last;
    return top;
}

static uint64_t due_at(uint64_t time) {
    static uint64_t asked;
    static uint32_t random = 2463534242u; /* xorshift: any sequence that is not in step */
    if (rate > 0) return counting_from - (uint64_t)(warmup * 1e9) + (uint64_t)((double)asked++ * 1e9 / rate);
    random ^= random << 13, random ^= random >> 17, random ^= random << 5;
    return time + (uint64_t)(random / 4294967296.0 * pause_ms * 1e6);
}

static void rest(struct connection *c, uint64_t time) {
    c->busy = 0;
    if (once && started_once >= (unsigned long)connections) return;
    started_once++;
    c->wake = due_at(time);
    push(c);
}

/* ---- connections ---- */

static void watch(struct connection *c, int operation, uint32_t what) {
    struct epoll_event event = {.events = what, .data.ptr = c};
    if (epoll_ctl(poll_fd, operation, c->fd, &event)) die("epoll_ctl");
}

static void dial(struct connection *c) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int one = 1;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&address, sizeof address)) die("connect");
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    watch(c, EPOLL_CTL_ADD, EPOLLIN);
}

static void redial(struct connection *c) {
    close(c->fd);
    dial(c);
}

static void finished(struct connection *c, const char *wrong, uint64_t time) {
    if (wrong) {
        if (!errors++) snprintf(error, sizeof error, "%s", wrong);
    } else if (time >= counting_from) {
        add(&whole, time - c->begun);
    }
    if (wrong || !c->answer.keep) redial(c);
    finished_once++;
    rest(c, time);
}

static void write_on(struct connection *c) {
    ssize_t done = send(c->fd, request + c->written, request_size - c->written, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (done < 0 && errno != EAGAIN) { finished(c, "the connection was closed before the request was out", now()); return; }
    size_t before = c->written;
    c->written += done > 0 ? (size_t)done : 0;
    if (c->written < request_size) watch(c, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT);
    else if (before) watch(c, EPOLL_CTL_MOD, EPOLLIN);
}

static void ask(struct connection *c) {
    c->busy = 1, c->written = 0, c->first = 0;
    c->begun = rate > 0 ? c->wake : now();
    answer_begin(&c->answer);
    write_on(c);
}

static void readable(struct connection *c) {
    static char data[READ_SIZE];
    ssize_t got = recv(c->fd, data, sizeof data, MSG_DONTWAIT);
    if (got < 0 && errno == EAGAIN) return;
    if (!c->busy) { /* closed between two requests, as servers may */
        if (got > 0 && !errors++) snprintf(error, sizeof error, "bytes that nobody asked for");
        redial(c);
        return;
    }
    uint64_t time = now();
    if (got <= 0) { finished(c, "the connection was closed before the answer was whole", time); return; }
    const char *wrong = answer_take(&c->answer, data, (size_t)got, events > 0);
    if (!c->first && c->answer.body_total) {
        c->first = time;
        if (time >= counting_from && c->answer.status == 200) add(&first, time - c->begun);
    }
    if (wrong) finished(c, wrong, time);
    else if (c->answer.complete) finished(c, answer_check(&c->answer, (int)events), time);
}

static void check_timeouts(uint64_t time) {
    for (long each = 0; each < connections; each++)
        if (all[each].busy && time - all[each].begun > (uint64_t)timeout * 1000000000ull)
            finished(&all[each], "a request took longer than it may", time);
}

/* ---- */

static void read_request(const char *path) {
    FILE *file = fopen(path, "rb");
    if (!file) die(path);
    request = malloc(1 << 24);
    request_size = fread(request, 1, 1 << 24, file);
    fclose(file);
}

static void read_arguments(int count, char **given) {
    struct { const char *name; long *whole; double *real; } known[] = {
        {"connections", &connections, NULL}, {"seconds", NULL, &seconds}, {"warmup", NULL, &warmup},
        {"events", &events, NULL}, {"pause", NULL, &pause_ms}, {"rate", NULL, &rate}, {"once", &once, NULL},
        {"window", &window, NULL}, {"timeout", &timeout, NULL},
    };
    for (int each = 3; each < count; each++) {
        char *value = strchr(given[each], '=');
        size_t found = 0, number = sizeof known / sizeof *known;
        if (value) *value++ = 0;
        while (found < number && strcmp(known[found].name, given[each])) found++;
        if (!value || found == number) { fprintf(stderr, "load: %s?\n", given[each]); exit(2); }
        if (known[found].whole) *known[found].whole = atol(value);
        else *known[found].real = atof(value);
    }
    if (connections < 1 || connections > MAX_CONNECTIONS) { fputs("load: 1 to 4096 connections\n", stderr); exit(2); }
}

int main(int count, char **given) {
    if (count < 3) { fputs("load PORT REQUEST_FILE NAME=VALUE...\n", stderr); return 2; }
    port = atol(given[1]);
    read_request(given[2]);
    read_arguments(count, given);
    struct rlimit files = {MAX_CONNECTIONS + 64, MAX_CONNECTIONS + 64};
    setrlimit(RLIMIT_NOFILE, &files);
    poll_fd = epoll_create1(EPOLL_CLOEXEC);
    all = calloc((size_t)connections, sizeof *all);
    heap = calloc((size_t)connections, sizeof *heap);
    for (long each = 0; each < connections; each++) dial(&all[each]);
    uint64_t start = now();
    counting_from = window_from = start + (uint64_t)(warmup * 1e9);
    ends = counting_from + (uint64_t)(seconds * 1e9);
    for (long each = 0; each < connections; each++) rest(&all[each], start);
    static struct epoll_event found[512];
    uint64_t time = start, looked = start;
    while (time < ends && !(once && finished_once == (unsigned long)connections)) {
        while (heap_size && heap[0]->wake <= time) ask(pop());
        uint64_t until = looked + 1000000000ull;
        if (heap_size && heap[0]->wake < until) until = heap[0]->wake;
        if (ends < until) until = ends;
        uint64_t left = until > time ? until - time : 0;
        struct timespec pause = {(time_t)(left / 1000000000ull), (long)(left % 1000000000ull)};
        int number = epoll_pwait2(poll_fd, found, 512, &pause, NULL);
        if (number < 0 && errno != EINTR) die("epoll_pwait2");
        for (int each = 0; each < number; each++) {
            struct connection *c = found[each].data.ptr;
            if (found[each].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) readable(c);
            if ((found[each].events & EPOLLOUT) && c->busy && c->written < request_size) write_on(c);
        }
        time = now();
        if (time - looked >= 1000000000ull) {
            looked = time;
            check_timeouts(time);
            if (window && time >= window_from + (uint64_t)window * 1000000000ull) report(time);
        }
    }
    if (!window) report(time);
    return 0;
}
