/* The subscribers: one process, one epoll, as cheap as a client can be, so that the server is what is measured.
 *
 *   load PORT PATH PREFIX [HEADER]   then commands on stdin, one answer line on stdout for each; HEADER goes out with each
 *                              request:
 *
 *   connect N WINDOW CHANNELS  open N WebSockets, at most WINDOW of them on their way at once. CHANNELS is "-" (a connection
 *                              is ready once it has the 101), or a comma-separated list in which "%d" stands for the
 *                              connection's number: each is subscribed (Pusher protocol) and the connection is ready once all
 *                              have succeeded.                                            -> connected N SECONDS
 *   also CHANNELS              open one connection more, with these channels                 -> connected 1 SECONDS
 *   expect TOTAL TIMEOUT       wait until TOTAL deliveries have come since the last reset, at most TIMEOUT seconds
 *                                                        -> got TOTAL MIN MAX SECONDS CPU_SECONDS BYTES (MIN, MAX: per connection)
 *   reset                      forget deliveries and latencies                            -> reset
 *   latencies                  percentiles in us since the last reset                     -> latencies N P50 P99 P999 MAX
 *   stall K                    read the first K connections no more                       -> stalled K
 *   close                      close all connections                                      -> closed N
 *
 * A delivery is a frame whose payload begins with PREFIX, or a compressed one, which is not looked into. One that contains "T=" and 19 digits (CLOCK_MONOTONIC, ns) is a
 * latency too.
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
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { HEAD, FRAMES };
struct peer { int fd, stage, acks, number; uint64_t got; char *rest; size_t have, room; };

enum { MOST = 100000 };
static struct peer peers[MOST];
static int count, ready_count, wanted_acks, epoll_fd, port;
static const char *path, *prefix, *header = "";
static size_t prefix_size;
static char *channels;
static uint64_t total, bytes;
static uint32_t *latencies;
static size_t latency_count, latency_room;
static char buffer[1 << 18];

static void die(const char *what) { perror(what); exit(1); }
static double seconds(clockid_t clock) { struct timespec t; clock_gettime(clock, &t); return t.tv_sec + t.tv_nsec / 1e9; }
static int64_t nanos(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec * 1000000000LL + t.tv_nsec; }

static void open_peer(struct peer *p) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    p->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (p->fd < 0) die("socket");
    int one = 1;
    setsockopt(p->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (connect(p->fd, (struct sockaddr *)&to, sizeof to)) die("connect");
    fcntl(p->fd, F_SETFL, O_NONBLOCK);
    p->stage = HEAD; p->acks = 0; p->got = 0; p->have = 0;
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = p};
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, p->fd, &event)) die("epoll_ctl");
    int size = snprintf(buffer, sizeof buffer,
        "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n%s%s\r\n", path, port, header, *header ? "\r\n" : "");
    if (write(p->fd, buffer, size) != size) die("request");
}

static void say(struct peer *p, const char *text) {
    size_t size = strlen(text), head = 6;
    unsigned char frame[4096];
    if (size > 4000) { fprintf(stderr, "message too long\n"); exit(1); }
    frame[0] = 0x81;
    if (size < 126) frame[1] = 0x80 | size;
    else { frame[1] = 0x80 | 126; frame[2] = size >> 8; frame[3] = size; head = 8; }
    memset(frame + head - 4, 0, 4); /* a mask of zeros is a mask */
    memcpy(frame + head, text, size);
    if (write(p->fd, frame, head + size) != (ssize_t)(head + size)) die("say");
}

static void subscribe(struct peer *p) {
    static char list[131072];
    char text[1024], name[512];
    snprintf(list, sizeof list, "%s", channels);
    for (char *save, *one = strtok_r(list, ",", &save); one; one = strtok_r(NULL, ",", &save)) {
        char *number = strstr(one, "%d");
        if (number) snprintf(name, sizeof name, "%.*s%d%s", (int)(number - one), one, p->number, number + 2);
        else snprintf(name, sizeof name, "%s", one);
        snprintf(text, sizeof text, "{\"event\":\"pusher:subscribe\",\"data\":{\"channel\":\"%s\"}}", name);
        say(p, text);
    }
}

static void message(struct peer *p, char *data, size_t size) {
    if (size >= prefix_size && !memcmp(data, prefix, prefix_size)) {
        total++; p->got++;
        char *stamp = memmem(data, size, "T=", 2);
        if (stamp && data + size - stamp >= 21) {
            int64_t sent = 0;
            for (int i = 2; i < 21; i++) sent = sent * 10 + (stamp[i] - '0');
            if (latency_count == latency_room) {
                latency_room = latency_room ? 2 * latency_room : 1 << 20;
                latencies = realloc(latencies, latency_room * sizeof *latencies);
            }
            latencies[latency_count++] = (nanos() - sent) / 100;
        }
    } else if (wanted_acks && memmem(data, size, "subscription_succeeded", 22) && ++p->acks == wanted_acks) {
        ready_count++;
    } else if (memmem(data, size < 200 ? size : 200, "subscription_error", 18) || memmem(data, size < 60 ? size : 60, "pusher:error", 12)) {
        fprintf(stderr, "refused: %.*s\n", (int)size, data); exit(1);
    }
}

static size_t frames(struct peer *p, char *data, size_t size) {
    size_t at = 0;
    for (;;) {
        if (size - at < 2) return at;
        unsigned char *f = (unsigned char *)data + at;
        size_t length = f[1] & 0x7f, head = 2;
        if (length == 126) { if (size - at < 4) return at; length = f[2] << 8 | f[3]; head = 4; }
        else if (length == 127) {
            if (size - at < 10) return at;
            length = 0; for (int i = 2; i < 10; i++) length = length << 8 | f[i];
            head = 10;
        }
        if (size - at < head + length) return at;
        if (f[0] == 0xc1) { total++; p->got++; }
        else if ((f[0] & 0xf) == 1) message(p, data + at + head, length);
        else if ((f[0] & 0xf) == 8) { fprintf(stderr, "closed by the server: %.*s\n", (int)length, data + at + head); }
        else if ((f[0] & 0xf) == 9) { unsigned char pong[6] = {0x8a, 0x80}; if (write(p->fd, pong, 6) < 0) die("pong"); }
        at += head + length;
    }
}

static void readable(struct peer *p) {
    if (p->have) memcpy(buffer, p->rest, p->have);
    ssize_t more = read(p->fd, buffer + p->have, sizeof buffer - p->have);
    if (more < 0) { if (errno == EAGAIN) return; }
    if (more <= 0) { epoll_ctl(epoll_fd, EPOLL_CTL_DEL, p->fd, NULL); return; }
    bytes += more;
    size_t size = p->have + more, at = 0;
    p->have = 0;
    if (p->stage == HEAD) {
        char *end = memmem(buffer, size, "\r\n\r\n", 4);
        if (end) {
            if (memcmp(buffer, "HTTP/1.1 101", 12)) { fprintf(stderr, "refused: %.*s\n", (int)(end - buffer), buffer); exit(1); }
            at = end + 4 - buffer;
            p->stage = FRAMES;
            if (wanted_acks) subscribe(p); else ready_count++;
        }
    }
    if (p->stage == FRAMES) at += frames(p, buffer + at, size - at);
    if (at < size) {
        if (p->room < size - at) { p->room = size - at; p->rest = realloc(p->rest, p->room); }
        p->have = size - at;
        memcpy(p->rest, buffer + at, p->have);
    }
}

static int turn(int timeout_ms) {
    struct epoll_event events[512];
    int n = epoll_wait(epoll_fd, events, 512, timeout_ms);
    for (int i = 0; i < n; i++) readable(events[i].data.ptr);
    return n;
}

static int by_value(const void *a, const void *b) { uint32_t x = *(uint32_t *)a, y = *(uint32_t *)b; return (x > y) - (x < y); }
static double at_share(double share) { return latency_count ? latencies[(size_t)(share * (latency_count - 1))] / 10.0 : 0; }

static void connect_all(int n, int window) {
    double start = seconds(CLOCK_MONOTONIC);
    wanted_acks = 0;
    if (strcmp(channels, "-")) { wanted_acks = 1; for (char *c = channels; *c; c++) wanted_acks += *c == ','; }
    int first = count;
    if (count + n > MOST) { fprintf(stderr, "more than %d connections\n", MOST); exit(1); }
    count += n; ready_count = 0;
    for (int opened = 0; ready_count < n;) {
        while (opened < n && opened - ready_count < window) { peers[first + opened].number = opened; open_peer(&peers[first + opened++]); }
        if (turn(20000) == 0) { fprintf(stderr, "%d of %d connected, then nothing\n", ready_count, n); exit(1); }
    }
    printf("connected %d %.6f\n", n, seconds(CLOCK_MONOTONIC) - start);
}

int main(int argc, char **argv) {
    if (argc < 4 || argc > 5) { fprintf(stderr, "usage: load PORT PATH PREFIX [HEADER]\n"); return 2; }
    if (argc == 5) header = argv[4];
    port = atoi(argv[1]); path = argv[2]; prefix = argv[3]; prefix_size = strlen(prefix);
    epoll_fd = epoll_create1(0);
    static char line[131072], list[131072];
    while (fgets(line, sizeof line, stdin)) {
        int n, window; double timeout; unsigned long long target;
        if (sscanf(line, "connect %d %d %131071s", &n, &window, list) == 3) { channels = list; connect_all(n, window); }
        else if (sscanf(line, "also %131071s", list) == 1) { channels = list; connect_all(1, 1); }
        else if (sscanf(line, "expect %llu %lf", &target, &timeout) == 2) {
            double start = seconds(CLOCK_MONOTONIC), cpu = seconds(CLOCK_PROCESS_CPUTIME_ID), left;
            while (total < target && (left = start + timeout - seconds(CLOCK_MONOTONIC)) > 0) turn(left * 1000 + 1);
            uint64_t low = ~0ull, high = 0;
            for (int i = 0; i < count; i++) { if (peers[i].got < low) low = peers[i].got; if (peers[i].got > high) high = peers[i].got; }
            printf("got %llu %llu %llu %.6f %.6f %llu\n", (unsigned long long)total, (unsigned long long)low, (unsigned long long)high,
                   seconds(CLOCK_MONOTONIC) - start, seconds(CLOCK_PROCESS_CPUTIME_ID) - cpu, (unsigned long long)bytes);
        } else if (!strncmp(line, "reset", 5)) {
            total = bytes = 0; latency_count = 0;
            for (int i = 0; i < count; i++) peers[i].got = 0;
            puts("reset");
        } else if (!strncmp(line, "latencies", 9)) {
            qsort(latencies, latency_count, sizeof *latencies, by_value);
            printf("latencies %zu %.1f %.1f %.1f %.1f\n", latency_count, at_share(.5), at_share(.99), at_share(.999), at_share(1));
        } else if (sscanf(line, "stall %d", &n) == 1) {
            for (int i = 0; i < n && i < count; i++) epoll_ctl(epoll_fd, EPOLL_CTL_DEL, peers[i].fd, NULL);
            printf("stalled %d\n", n);
        } else if (!strncmp(line, "close", 5)) {
            for (int i = 0; i < count; i++) { close(peers[i].fd); free(peers[i].rest); }
            printf("closed %d\n", count);
            memset(peers, 0, count * sizeof *peers); count = 0;
        } else { fprintf(stderr, "what is %s", line); return 2; }
        fflush(stdout);
    }
    return 0;
}
