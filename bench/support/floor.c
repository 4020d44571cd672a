/* The floor: what the kernel alone asks for a delivery. Accepts, answers any request with 101, and sends one prepared frame to
 * every connection with send(), in a loop, doing nothing else.
 *
 *   floor SIZE                 prints "listening PORT"; then on stdin, "done" on stdout for each:
 *
 *   go ROUNDS BATCH PAUSE_US   ROUNDS times: BATCH messages of SIZE bytes (frame included) to everybody, then a pause
 *   joined ROUNDS BATCH PAUSE_US   the same with the BATCH messages in one send()
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static const char ANSWER[] = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";
static int fds[70000], count;
static char frame[1 << 20];

static void die(const char *what) { perror(what); exit(1); }

static void send_whole(int fd, size_t size) {
    for (size_t at = 0; at < size;) {
        ssize_t sent = send(fd, frame + at, size - at, MSG_NOSIGNAL);
        if (sent > 0) at += sent;
        else if (errno == EAGAIN) { struct pollfd p = {fd, POLLOUT, 0}; poll(&p, 1, 1000); }
        else die("send");
    }
}

static void accept_one(int listener) {
    int fd = accept(listener, NULL, NULL), one = 1;
    char request[4096];
    if (fd < 0) die("accept");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (read(fd, request, sizeof request) <= 0) die("request");
    if (write(fd, ANSWER, sizeof ANSWER - 1) < 0) die("answer");
    fcntl(fd, F_SETFL, O_NONBLOCK);
    fds[count++] = fd;
}

static int command(void) {
    static char line[256];
    int rounds, batch, pause;
    if (!fgets(line, sizeof line, stdin)) return 0;
    int joined = !strncmp(line, "joined", 6);
    if (sscanf(strchr(line, ' '), "%d %d %d", &rounds, &batch, &pause) != 3) return 0;
    size_t size = (frame[1] == 126 ? 4 + (((uint8_t)frame[2] << 8) | (uint8_t)frame[3]) : 2 + frame[1]);
    for (int b = 1; b < batch; b++) memcpy(frame + b * size, frame, size);
    for (int r = 0; r < rounds; r++) {
        if (joined) for (int i = 0; i < count; i++) send_whole(fds[i], size * batch);
        else for (int b = 0; b < batch; b++) for (int i = 0; i < count; i++) send_whole(fds[i], size);
        usleep(pause);
    }
    puts("done");
    fflush(stdout);
    return 1;
}

int main(int argc, char **argv) {
    if (argc != 2) { fprintf(stderr, "usage: floor SIZE\n"); return 2; }
    size_t size = atoi(argv[1]), head = size > 127 ? 4 : 2;
    memset(frame, '.', size);
    frame[0] = (char)0x81;
    if (head == 4) { frame[1] = 126; frame[2] = (size - 4) >> 8; frame[3] = (size - 4) & 0xff; } else frame[1] = size - 2;
    memcpy(frame + head, "{\"event\":\"tick\"", 15);
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in at = {.sin_family = AF_INET};
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t length = sizeof at;
    if (bind(listener, (struct sockaddr *)&at, length) || listen(listener, 4096)) die("listen");
    getsockname(listener, (struct sockaddr *)&at, &length);
    printf("listening %d\n", ntohs(at.sin_port));
    fflush(stdout);
    struct pollfd both[2] = {{listener, POLLIN, 0}, {0, POLLIN, 0}};
    while (poll(both, 2, -1) > 0) {
        if (both[0].revents) accept_one(listener);
        else if (both[1].revents && !command()) return 0;
    }
    return 0;
}
