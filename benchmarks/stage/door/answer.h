/* Reads one HTTP/1.1 answer as it comes, and checks that it is whole: its framing, its status, and what it holds. */
#ifndef ANSWER_H
#define ANSWER_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define HEAD_ROOM 16384
#define BODY_ROOM 4096
#define DONE_MARK "data: [DONE]\n\n"

struct answer {
    char head[HEAD_ROOM];   /* until it is whole; then, of the body, its beginning */
    size_t head_size;
    int in_body, complete, keep, status;
    long long length;       /* of a body that is not chunked: bytes still to come */
    int chunked;
    enum { SIZE, DATA, AFTER_DATA, TRAILER } at;
    size_t chunk;           /* bytes of the chunk still to come, or the size that is being read */
    int trailer_bytes;
    char body[BODY_ROOM];   /* the body's beginning */
    size_t body_size, body_total;
    int events, newline;    /* events that ended; whether the last byte was a line's end */
    char tail[sizeof DONE_MARK];
    size_t tail_size;
};

static void answer_begin(struct answer *a) {
    a->head_size = a->body_size = a->body_total = a->chunk = a->tail_size = 0;
    a->in_body = a->complete = a->chunked = a->events = a->newline = a->trailer_bytes = 0;
    a->length = -1, a->at = SIZE, a->keep = 1, a->status = 0;
}

static void answer_body(struct answer *a, const char *data, size_t size, int stream) {
    if (!size) return;
    a->body_total += size;
    size_t room = BODY_ROOM - a->body_size, kept = size < room ? size : room;
    memcpy(a->body + a->body_size, data, kept);
    a->body_size += kept;
    if (!stream) return;
    const char *end = data + size, *from = data;
    if (a->newline && *data == '\n') a->events++;
    for (const char *line; (line = memchr(from, '\n', (size_t)(end - from))); from = line + 1)
        if (line + 1 < end && line[1] == '\n') a->events++, line++;
    a->newline = end[-1] == '\n' && !(size > 1 && end[-2] == '\n');
    size_t mark = strlen(DONE_MARK);
    if (size >= mark) {
        memcpy(a->tail, end - mark, mark), a->tail_size = mark;
    } else {
        size_t old = a->tail_size + size > mark ? mark - size : a->tail_size;
        memmove(a->tail, a->tail + a->tail_size - old, old);
        memcpy(a->tail + old, data, size), a->tail_size = old + size;
    }
}

/* What is wrong with the head, or NULL. */
static const char *answer_head(struct answer *a) {
    if (a->head_size < 12 || memcmp(a->head, "HTTP/1.1 ", 9)) return "no HTTP/1.1 answer";
    a->status = atoi(a->head + 9);
    char *line = a->head, *end = a->head + a->head_size;
    while (line < end) {
        char *next = memchr(line, '\n', (size_t)(end - line));
        if (!strncasecmp(line, "content-length:", 15)) a->length = atoll(line + 15);
        else if (!strncasecmp(line, "transfer-encoding: chunked", 26)) a->chunked = 1;
        else if (!strncasecmp(line, "connection: close", 17)) a->keep = 0;
        line = next ? next + 1 : end;
    }
    if (!a->chunked && a->length < 0) return "an answer with neither content-length nor chunks";
    if (!a->chunked && !a->length) a->complete = 1;
    return NULL;
}

/* Takes what came. Returns what is wrong with it, or NULL; `complete` says whether that was all. */
static const char *answer_take(struct answer *a, const char *data, size_t size, int stream) {
    const char *end = data + size;
    if (!a->in_body) {
        size_t before = a->head_size;
        if (before + size > HEAD_ROOM) size = HEAD_ROOM - before;
        memcpy(a->head + before, data, size);
        size_t from = before > 3 ? before - 3 : 0;
        char *mark = memmem(a->head + from, before + size - from, "\r\n\r\n", 4);
        if (!mark) {
            a->head_size = before + size;
            return a->head_size == HEAD_ROOM ? "an endless head" : NULL;
        }
        a->head_size = (size_t)(mark + 4 - a->head);
        data += a->head_size - before;
        a->in_body = 1;
        const char *wrong = answer_head(a);
        if (wrong) return wrong;
    }
    while (data < end && !a->complete) {
        if (!a->chunked) {
            size_t part = (size_t)(end - data);
            if ((long long)part > a->length) return "more bytes than it said";
            answer_body(a, data, part, stream);
            a->length -= (long long)part;
            a->complete = !a->length;
            return NULL;
        }
        switch (a->at) {
        case SIZE:
            if (*data == '\n') {
                a->at = a->chunk ? DATA : TRAILER, a->trailer_bytes = 0;
            } else if (*data != '\r') {
                char digit = *data, value = digit >= '0' && digit <= '9' ? (char)(digit - '0')
                    : (digit | 32) >= 'a' && (digit | 32) <= 'f' ? (char)((digit | 32) - 'a' + 10) : 99;
                if (value == 99) return "a chunk whose size is no number";
                a->chunk = a->chunk * 16 + (size_t)value;
            }
            data++;
            break;
        case DATA: {
            size_t part = (size_t)(end - data) < a->chunk ? (size_t)(end - data) : a->chunk;
            answer_body(a, data, part, stream);
            data += part, a->chunk -= part;
            if (!a->chunk) a->at = AFTER_DATA;
            break;
        }
        case AFTER_DATA:
            if (*data++ == '\n') a->at = SIZE;
            break;
        case TRAILER:
            if (*data++ == '\n') a->complete = 1;
            break;
        }
    }
    return data < end ? "bytes after its end" : NULL;
}

/* What is wrong with an answer that is complete, or NULL. `events`: how many a stream has at least; 0: it is none. */
static const char *answer_check(struct answer *a, int events) {
    static char said[256];
    if (a->status != 200) {
        snprintf(said, sizeof said, "status %d: %.*s", a->status, (int)(a->body_size < 160 ? a->body_size : 160), a->body);
        return said;
    }
    if (events) {
        if (a->tail_size != strlen(DONE_MARK) || memcmp(a->tail, DONE_MARK, a->tail_size)) return "a stream without [DONE]";
        if (a->events >= events) return NULL;
        snprintf(said, sizeof said, "a stream of %d events", a->events);
        return said;
    }
    if (a->body_total > BODY_ROOM) return NULL;
    if (!memmem(a->body, a->body_size, "\"choices\"", 9)) return "an answer without choices";
    return a->body[a->body_size - 1] == '}' || a->body[a->body_size - 1] == '\n' ? NULL : "an answer cut short";
}

#endif
