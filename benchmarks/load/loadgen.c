/* A load generator for HTTP/1.1: prepared requests over keep-alive connections, one thread, epoll.
 *
 * The requests (whole bytes: head and body), what each must be answered with (status, length, CRC-32)
 * and their order come from a file that the driver writes, so signing costs nothing here. Closed loop:
 * every connection has one request in flight. Open loop (--rate): requests fall due at Poisson times
 * and their latency counts from then, so a stalled server cannot hide its queue. Bytes are counted as
 * they arrive, requests when they are whole. Prints one JSON object.
 */
#define _GNU_SOURCE
#include <getopt.h>
#include <inttypes.h>
#include <math.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <time.h>

#include "histogram.h"
#include "stream.h"

#define BUFFER_BYTES (1 << 20)
#define HEAD_BYTES_MAX 16384
#define ERRORS_MAX 100
#define ANY_LENGTH UINT64_MAX

struct record { /* as in the file, before the request's bytes */
    uint64_t size, length;
    uint32_t status, crc;
};

struct request {
    struct record record;
    const char *bytes;
};

enum state { IDLE, SENDING, HEAD, BODY };

struct connection {
    struct stream stream;
    enum state state;
    const struct request *request;
    uint64_t sent, missing, due, requests, bytes;
    uint32_t crc, head_size, watching;
    char *head;
};

static struct {
    const char *address, *file;
    int port, core, secure, discard, verify;
    uint64_t connections, count;
    double seconds, rate;
} options = {.address = "127.0.0.1", .core = -1, .connections = 1, .seconds = 1};

static struct request *requests;
static uint64_t request_count, next_request, started, finished, bytes, errors, reconnects;
static struct connection *connections;
static struct histogram first_byte, whole;
static char buffer[BUFFER_BYTES], error_text[512];
static uint32_t crc_table[8][256];
static uint64_t begin, next_due, *idle_stack, idle_count;
static int poller, stopping;

static uint64_t now_ns(void) {
    struct timespec moment;
    clock_gettime(CLOCK_MONOTONIC, &moment);
    return (uint64_t)moment.tv_sec * 1000000000ull + (uint64_t)moment.tv_nsec;
}

static void die(const char *why) {
    fprintf(stderr, "loadgen: %s\n", why);
    exit(2);
}

static void crc_prepare(void) {
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t value = i;
        for (int bit = 0; bit < 8; bit++) value = (value >> 1) ^ (value & 1 ? 0xEDB88320u : 0);
        crc_table[0][i] = value;
    }
    for (uint32_t i = 0; i < 256; i++)
        for (int row = 1; row < 8; row++)
            crc_table[row][i] = (crc_table[row - 1][i] >> 8) ^ crc_table[0][crc_table[row - 1][i] & 255];
}

/* CRC-32 as in zlib, eight bytes a step. */
static uint32_t crc_update(uint32_t crc, const char *data, size_t size) {
    crc = ~crc;
    for (; size >= 8; size -= 8, data += 8) {
        uint64_t word;
        memcpy(&word, data, 8);
        word ^= crc;
        crc = 0;
        for (int row = 0; row < 8; row++) crc ^= crc_table[7 - row][(word >> (8 * row)) & 255];
    }
    while (size--) crc = (crc >> 8) ^ crc_table[0][(crc ^ (uint8_t)*data++) & 255];
    return ~crc;
}

static void load_requests(void) {
    struct stat status;
    FILE *file = fopen(options.file, "rb");
    if (file == NULL || fstat(fileno(file), &status) < 0 || status.st_size < 8) die("cannot read the request file");
    char *all = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_PRIVATE | MAP_POPULATE, fileno(file), 0);
    if (all == MAP_FAILED) die("cannot map the request file");
    fclose(file);
    memcpy(&request_count, all, 8);
    requests = calloc(request_count, sizeof *requests);
    char *place = all + 8, *end = all + status.st_size;
    for (uint64_t i = 0; i < request_count; i++) {
        if (place + sizeof(struct record) > end) die("the request file is cut short");
        memcpy(&requests[i].record, place, sizeof(struct record));
        requests[i].bytes = place + sizeof(struct record);
        place += sizeof(struct record) + requests[i].record.size;
    }
    if (request_count == 0 || place != end) die("the request file is damaged");
}

static void watch(struct connection *connection, uint32_t wanted) {
    struct epoll_event event = {.events = wanted, .data.u64 = (uint64_t)(connection - connections)};
    int operation = connection->watching ? EPOLL_CTL_MOD : EPOLL_CTL_ADD;
    if (connection->watching == wanted) return;
    if (epoll_ctl(poller, operation, connection->stream.descriptor, &event) < 0) die("epoll_ctl failed");
    connection->watching = wanted;
}

static void connect_to_server(struct connection *connection) {
    if (stream_open(&connection->stream, options.address, options.port, options.secure) < 0) die("cannot connect");
    connection->watching = 0;
    connection->state = IDLE;
    watch(connection, EPOLLIN);
}

static void send_more(struct connection *connection) {
    while (connection->sent < connection->request->record.size) {
        int64_t moved = stream_write(&connection->stream, connection->request->bytes + connection->sent,
                                     connection->request->record.size - connection->sent);
        if (moved == AGAIN) {
            watch(connection, EPOLLIN | EPOLLOUT);
            return;
        }
        if (moved == BROKEN) return; /* reading will see it too */
        connection->sent += (uint64_t)moved;
    }
    watch(connection, EPOLLIN);
    if (connection->state == SENDING) connection->state = HEAD;
}

static void start_request(struct connection *connection, uint64_t due) {
    connection->request = &requests[next_request];
    next_request = next_request + 1 < request_count ? next_request + 1 : 0;
    started++;
    connection->state = SENDING;
    connection->due = due;
    connection->sent = connection->head_size = connection->crc = 0;
    send_more(connection);
}

/* Take the next request, if one is wanted now; else wait among the idle. */
static void next(struct connection *connection, uint64_t now) {
    connection->state = IDLE;
    if (stopping || (options.count && started >= options.count)) return;
    if (options.rate == 0) {
        start_request(connection, now);
    } else if (next_due <= now) {
        uint64_t due = next_due;
        next_due += (uint64_t)(-log1p(-drand48()) / options.rate * 1e9) + 1;
        start_request(connection, due);
    } else {
        idle_stack[idle_count++] = (uint64_t)(connection - connections);
    }
}

static void fail(struct connection *connection, const char *why) {
    if (errors++ == 0)
        snprintf(error_text, sizeof error_text, "%s; request %.100s; answer %.*s", why,
                 connection->request ? connection->request->bytes : "none",
                 (int)(connection->head_size < 200 ? connection->head_size : 200), connection->head);
    if (errors >= ERRORS_MAX) stopping = 1;
    stream_close(&connection->stream);
    reconnects++;
    connect_to_server(connection);
    next(connection, now_ns());
}

static void finish(struct connection *connection, uint64_t now) {
    const struct record *record = &connection->request->record;
    if (options.verify && record->crc && connection->crc != record->crc) {
        fail(connection, "the body has another CRC-32");
        return;
    }
    histogram_note(&whole, now - connection->due);
    connection->requests++;
    finished++;
    next(connection, now);
}

/* Body bytes have arrived: data is NULL where the kernel discarded them. */
static void body(struct connection *connection, const char *data, uint64_t size) {
    if (size > connection->missing) {
        fail(connection, "more bytes than announced");
        return;
    }
    if (options.verify && data != NULL) connection->crc = crc_update(connection->crc, data, size);
    connection->missing -= size;
    connection->bytes += size;
    bytes += size;
    if (connection->missing == 0) finish(connection, now_ns());
}

/* Value of Content-Length in a head of that size; ANY_LENGTH when there is none. */
static uint64_t content_length(const char *head, size_t size) {
    const char *line = memchr(head, '\n', size), *end = head + size;
    while (line != NULL && line + 16 < end) {
        line++;
        if (strncasecmp(line, "content-length:", 15) == 0) return strtoull(line + 15, NULL, 10);
        line = memchr(line, '\n', (size_t)(end - line));
    }
    return ANY_LENGTH;
}

/* Bytes of a response head, perhaps with the start of its body behind it. */
static void head(struct connection *connection, const char *data, uint64_t size) {
    const struct record *record = &connection->request->record;
    if (connection->head_size == 0) histogram_note(&first_byte, now_ns() - connection->due);
    uint64_t copied = HEAD_BYTES_MAX - connection->head_size;
    if (copied > size) copied = size;
    memcpy(connection->head + connection->head_size, data, copied);
    uint64_t before = connection->head_size;
    connection->head_size += (uint32_t)copied;
    char *end = memmem(connection->head, connection->head_size, "\r\n\r\n", 4);
    if (end == NULL) {
        if (connection->head_size == HEAD_BYTES_MAX) fail(connection, "an endless head");
        return;
    }
    uint64_t used = (uint64_t)(end + 4 - connection->head) - before;
    connection->head_size = (uint32_t)(before + used);
    uint64_t length = content_length(connection->head, connection->head_size);
    if (connection->head_size < 12 || strtoul(connection->head + 9, NULL, 10) != record->status) {
        fail(connection, "an unexpected status");
    } else if (length == ANY_LENGTH || (record->length != ANY_LENGTH && length != record->length)) {
        fail(connection, "an unexpected length");
    } else {
        connection->state = BODY;
        connection->missing = length;
        body(connection, data + used, size - used);
    }
}

static void receive(struct connection *connection) {
    do {
        int discard = options.discard && connection->state == BODY;
        uint64_t wanted = discard && connection->missing < BUFFER_BYTES ? connection->missing : BUFFER_BYTES;
        int64_t moved = stream_read(&connection->stream, buffer, wanted, discard);
        if (moved == AGAIN) return;
        if (moved == BROKEN && connection->state == IDLE) { /* the server closed it between requests */
            stream_close(&connection->stream);
            reconnects++;
            connect_to_server(connection);
            return;
        }
        if (moved == BROKEN) fail(connection, "the connection broke");
        else if (connection->state == BODY) body(connection, discard ? NULL : buffer, (uint64_t)moved);
        else if (connection->state == IDLE) fail(connection, "bytes that nobody asked for");
        else head(connection, buffer, (uint64_t)moved);
        if (moved == BROKEN) return;
    } while (stream_buffers(&connection->stream));
}

static void run(void) {
    struct epoll_event events[256], alarm_event = {.events = EPOLLIN, .data.u64 = UINT64_MAX};
    int alarm = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    epoll_ctl(poller, EPOLL_CTL_ADD, alarm, &alarm_event);
    begin = now_ns();
    next_due = begin;
    uint64_t deadline = begin + (uint64_t)(options.seconds * 1e9);
    struct itimerspec time = {.it_value = {(time_t)(deadline / 1000000000ull), (long)(deadline % 1000000000ull)}};
    timerfd_settime(alarm, TFD_TIMER_ABSTIME, &time, NULL);
    for (uint64_t i = 0; i < options.connections; i++) next(&connections[i], begin);
    for (;;) {
        uint64_t now = now_ns();
        if (now >= deadline || stopping || (options.count && finished + errors >= options.count)) break;
        while (options.rate > 0 && idle_count > 0 && next_due <= now) next(&connections[idle_stack[--idle_count]], now);
        if (options.rate > 0) {
            uint64_t wake = idle_count > 0 && next_due < deadline ? next_due : deadline;
            time.it_value.tv_sec = (time_t)(wake / 1000000000ull);
            time.it_value.tv_nsec = (long)(wake % 1000000000ull);
            timerfd_settime(alarm, TFD_TIMER_ABSTIME, &time, NULL);
        }
        int ready = epoll_wait(poller, events, 256, 100);
        for (int i = 0; i < ready; i++) {
            uint64_t expirations;
            if (events[i].data.u64 == UINT64_MAX) {
                if (read(alarm, &expirations, sizeof expirations) < 0) continue;
                continue;
            }
            struct connection *connection = &connections[events[i].data.u64];
            if (connection->state == SENDING && (events[i].events & EPOLLOUT)) send_more(connection);
            if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR)) receive(connection);
        }
    }
}

static void print_histogram(const char *name, const struct histogram *histogram) {
    printf("\"%s\": {\"count\": %" PRIu64 ", \"mean\": %.9f", name, histogram->count,
           histogram->count ? (double)histogram->total / (double)histogram->count / 1e9 : 0);
    const double shares[] = {0.5, 0.9, 0.99, 0.999};
    const char *names[] = {"p50", "p90", "p99", "p99.9"};
    for (int i = 0; i < 4; i++) printf(", \"%s\": %.9f", names[i], (double)histogram_at(histogram, shares[i]) / 1e9);
    printf(", \"max\": %.9f}, ", (double)histogram->largest / 1e9);
}

static void report(double seconds) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    printf("{\"seconds\": %.6f, \"requests\": %" PRIu64 ", \"bytes\": %" PRIu64 ", \"errors\": %" PRIu64
           ", \"reconnects\": %" PRIu64 ", ", seconds, finished, bytes, errors, reconnects);
    printf("\"client_cpu_seconds\": %.4f, ", (double)usage.ru_utime.tv_sec + (double)usage.ru_utime.tv_usec / 1e6 +
           (double)usage.ru_stime.tv_sec + (double)usage.ru_stime.tv_usec / 1e6);
    print_histogram("first_byte_seconds", &first_byte);
    print_histogram("whole_seconds", &whole);
    printf("\"connection_bytes\": [");
    for (uint64_t i = 0; i < options.connections; i++) printf("%s%" PRIu64, i ? ", " : "", connections[i].bytes);
    printf("], \"error\": \"");
    for (const char *letter = error_text; *letter; letter++)
        putchar(*letter < 32 || *letter > 126 || *letter == '"' || *letter == '\\' ? ' ' : *letter);
    printf("\"}\n");
}

static void parse_options(int argc, char **argv) {
    static const struct option known[] = {
        {"address", 1, 0, 'a'}, {"port", 1, 0, 'p'},    {"requests", 1, 0, 'q'}, {"connections", 1, 0, 'c'},
        {"seconds", 1, 0, 's'}, {"count", 1, 0, 'n'},   {"rate", 1, 0, 'r'},     {"core", 1, 0, 'k'},
        {"tls", 0, 0, 't'},     {"discard", 0, 0, 'd'}, {"verify", 0, 0, 'v'},   {0, 0, 0, 0}};
    for (int letter; (letter = getopt_long(argc, argv, "", known, NULL)) != -1;) switch (letter) {
        case 'a': options.address = optarg; break;
        case 'p': options.port = atoi(optarg); break;
        case 'q': options.file = optarg; break;
        case 'c': options.connections = strtoull(optarg, NULL, 10); break;
        case 's': options.seconds = atof(optarg); break;
        case 'n': options.count = strtoull(optarg, NULL, 10); break;
        case 'r': options.rate = atof(optarg); break;
        case 'k': options.core = atoi(optarg); break;
        case 't': options.secure = 1; break;
        case 'd': options.discard = 1; break;
        case 'v': options.verify = 1; break;
        default: die("unknown option");
    }
    if (options.file == NULL || options.port == 0 || options.connections == 0) die("--requests and --port are needed");
}

int main(int argc, char **argv) {
    parse_options(argc, argv);
    if (options.core >= 0) {
        cpu_set_t set;
        CPU_ZERO(&set);
        CPU_SET((size_t)options.core, &set);
        if (sched_setaffinity(0, sizeof set, &set) < 0) die("cannot pin to that core");
    }
    crc_prepare();
    srand48(1);
    load_requests();
    poller = epoll_create1(EPOLL_CLOEXEC);
    connections = calloc(options.connections, sizeof *connections);
    idle_stack = calloc(options.connections, sizeof *idle_stack);
    for (uint64_t i = 0; i < options.connections; i++) {
        connections[i].head = malloc(HEAD_BYTES_MAX);
        connect_to_server(&connections[i]);
    }
    run();
    report((double)(now_ns() - begin) / 1e9);
    return errors ? 1 : 0;
}
