/* switch CONTROL PID...: an Ethernet switch over taps, whose links have a rate and a delay.
 *
 * Makes a tap eth0 in the network namespace of each process, then leaves its parent and goes on in the background. Lines "RATE DELAY"
 * read from the named pipe CONTROL set the rate of each link in bit/s (0: no limit) and the delay between any two in nanoseconds; "end"
 * ends the program.
 *
 * A frame that comes at time t occupies its sender's link from s = max(t, free) and its receiver's from r = max(s, free'), each for
 * bits / rate seconds; it is delivered at r + bits / rate + delay. The links are in effect one wire with a queue at each end.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

enum {
    OFFLOAD = 10, /* bytes of the virtio header before each frame, with which the kernel passes 64 KiB segments */
    ETHERNET = 14,
    LARGEST = 1 << 17,
    BATCH = 32,
    QUEUE = 64 << 20, /* bytes; frames beyond are dropped */
};

struct frame {
    struct frame *next;
    int64_t due;
    size_t size;
    unsigned char bytes[];
};

struct port {
    int tap;
    unsigned char address[6];
    int64_t sends_until, receives_until;
    struct frame *first, **last;
    size_t queued;
};

static double rate;
static int64_t latency;

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static int64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * INT64_C(1000000000) + time.tv_nsec;
}

static int64_t later(int64_t a, int64_t b) { return a > b ? a : b; }

static int make_tap(const char *pid)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%s/ns/net", pid);
    int space = open(path, O_RDONLY | O_CLOEXEC);
    if (space < 0 || setns(space, CLONE_NEWNET))
        fail(path);
    close(space);
    int tap = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    struct ifreq request = {.ifr_name = "eth0", .ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};
    if (tap < 0 || ioctl(tap, TUNSETIFF, &request) || ioctl(tap, TUNSETOFFLOAD, TUN_F_CSUM | TUN_F_TSO4))
        fail("/dev/net/tun");
    return tap;
}

static void pass(struct port *from, struct port *to, const unsigned char *bytes, size_t size, int64_t time)
{
    if (to->queued + size > QUEUE)
        return;
    struct frame *frame = malloc(sizeof *frame + size);
    if (!frame)
        fail("malloc");
    int64_t takes = rate > 0 ? (int64_t)((double)(size - OFFLOAD) * 8e9 / rate) : 0;
    int64_t sent = later(time, from->sends_until), received = later(sent, to->receives_until);
    from->sends_until = sent + takes;
    to->receives_until = received + takes;
    *frame = (struct frame){.due = received + takes + latency, .size = size};
    memcpy(frame->bytes, bytes, size);
    *to->last = frame;
    to->last = &frame->next;
    to->queued += size;
}

static void receive(struct port *ports, int count, struct port *from, int64_t time)
{
    static unsigned char bytes[LARGEST];
    for (int k = 0; k < BATCH; k++) {
        ssize_t size = read(from->tap, bytes, sizeof bytes);
        if (size < OFFLOAD + ETHERNET)
            return;
        const unsigned char *target = bytes + OFFLOAD, *source = target + 6;
        memcpy(from->address, source, 6);
        struct port *known = NULL;
        for (struct port *to = ports; to < ports + count; to++)
            if (!memcmp(to->address, target, 6))
                known = to;
        for (struct port *to = ports; to < ports + count; to++)
            if (to != from && (!known || to == known))
                pass(from, to, bytes, (size_t)size, time);
    }
}

/* Delivers what is due; returns when the next frame is, or -1. A tap that is full is `*blocked` and asked again when it has room. */
static int64_t deliver(struct port *port, int64_t time, int *blocked)
{
    *blocked = 0;
    while (port->first && port->first->due <= time) {
        struct frame *frame = port->first;
        if (write(port->tap, frame->bytes, frame->size) < 0 && errno == EAGAIN) {
            *blocked = 1;
            return -1;
        }
        port->first = frame->next;
        if (!port->first)
            port->last = &port->first;
        port->queued -= frame->size;
        free(frame);
    }
    return port->first ? port->first->due : -1;
}

static void obey(int control)
{
    char text[256];
    ssize_t size = read(control, text, sizeof text - 1);
    if (size <= 0)
        return;
    text[size] = 0;
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
        double bits, delay;
        if (!strcmp(line, "end"))
            exit(0);
        if (sscanf(line, "%lf %lf", &bits, &delay) == 2) {
            rate = bits;
            latency = (int64_t)delay;
        }
    }
}

int main(int argc, char **argv)
{
    int count = argc - 2;
    if (count < 1) {
        fprintf(stderr, "usage: switch CONTROL PID...\n");
        return 2;
    }
    int control = open(argv[1], O_RDWR | O_NONBLOCK); /* for writing too, so that it never ends */
    struct port *ports = calloc((size_t)count, sizeof *ports);
    struct pollfd *polled = calloc((size_t)count + 1, sizeof *polled);
    if (control < 0 || !ports || !polled)
        fail(argv[1]);
    for (int k = 0; k < count; k++)
        ports[k] = (struct port){.tap = make_tap(argv[k + 2]), .last = &ports[k].first};
    prctl(PR_SET_TIMERSLACK, 1000UL);
    if (daemon(0, 0))
        fail("daemon");
    for (;;) {
        int64_t time = now(), next = -1;
        polled[count] = (struct pollfd){.fd = control, .events = POLLIN};
        for (int k = 0; k < count; k++) {
            int blocked;
            int64_t due = deliver(&ports[k], time, &blocked);
            if (due >= 0 && (next < 0 || due < next))
                next = due;
            polled[k] = (struct pollfd){.fd = ports[k].tap, .events = blocked ? POLLIN | POLLOUT : POLLIN};
        }
        int64_t wait = later(next - now(), 0);
        struct timespec until = {.tv_sec = wait / 1000000000, .tv_nsec = wait % 1000000000};
        if (ppoll(polled, (nfds_t)count + 1, next < 0 ? NULL : &until, NULL) < 0 && errno != EINTR)
            return 1;
        time = now();
        for (int k = 0; k < count; k++)
            if (polled[k].revents & POLLIN)
                receive(ports, count, &ports[k], time);
        if (polled[count].revents & POLLIN)
            obey(control);
    }
}
