/* A connected stream, plain or TLS, with one shape for both: read and write say how many bytes moved,
 * AGAIN when they would block, BROKEN when the peer is gone. */
#ifndef HEADRACE_STREAM_H
#define HEADRACE_STREAM_H

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define AGAIN (-1)
#define BROKEN (-2)

#ifdef WITH_TLS
#include <openssl/ssl.h>
static SSL_CTX *tls_context;
#endif

struct stream {
    int descriptor;
#ifdef WITH_TLS
    SSL *tls;
#endif
};

/* Connect to address:port; 0 on success. Blocking, so that a run starts with every stream ready. */
static int stream_open(struct stream *stream, const char *address, int port, int secure) {
    struct sockaddr_in target = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    int one = 1;
    inet_pton(AF_INET, address, &target.sin_addr);
    stream->descriptor = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (stream->descriptor < 0) return -1;
    if (connect(stream->descriptor, (struct sockaddr *)&target, sizeof target) < 0) return -1;
    setsockopt(stream->descriptor, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
#ifdef WITH_TLS
    stream->tls = NULL;
    if (secure) {
        if (tls_context == NULL) {
            tls_context = SSL_CTX_new(TLS_client_method());
            SSL_CTX_set_read_ahead(tls_context, 1);
            SSL_CTX_set_mode(tls_context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
        }
        stream->tls = SSL_new(tls_context);
        SSL_set_fd(stream->tls, stream->descriptor);
        if (SSL_connect(stream->tls) != 1) return -1;
    }
#else
    if (secure) return -1;
#endif
    return fcntl(stream->descriptor, F_SETFL, O_NONBLOCK);
}

static void stream_close(struct stream *stream) {
#ifdef WITH_TLS
    if (stream->tls != NULL) SSL_free(stream->tls);
    stream->tls = NULL;
#endif
    close(stream->descriptor);
}

/* May more bytes be waiting where epoll cannot see them? */
static inline int stream_buffers(const struct stream *stream) {
#ifdef WITH_TLS
    return stream->tls != NULL;
#else
    (void)stream;
    return 0;
#endif
}

#ifdef WITH_TLS
static inline int64_t tls_outcome(struct stream *stream, int moved) {
    if (moved > 0) return moved;
    int reason = SSL_get_error(stream->tls, moved);
    return reason == SSL_ERROR_WANT_READ || reason == SSL_ERROR_WANT_WRITE ? AGAIN : BROKEN;
}
#endif

/* Read at most size bytes; with discard the kernel drops them uncopied (plain streams only). */
static inline int64_t stream_read(struct stream *stream, char *buffer, size_t size, int discard) {
#ifdef WITH_TLS
    if (stream->tls != NULL) return tls_outcome(stream, SSL_read(stream->tls, buffer, (int)size));
#endif
    ssize_t moved = recv(stream->descriptor, buffer, size, discard ? MSG_TRUNC : 0);
    if (moved > 0) return moved;
    return moved < 0 && (errno == EAGAIN || errno == EINTR) ? AGAIN : BROKEN;
}

static inline int64_t stream_write(struct stream *stream, const char *bytes, size_t size) {
#ifdef WITH_TLS
    if (stream->tls != NULL) return tls_outcome(stream, SSL_write(stream->tls, bytes, (int)size));
#endif
    ssize_t moved = send(stream->descriptor, bytes, size, MSG_NOSIGNAL);
    if (moved >= 0) return moved;
    return errno == EAGAIN || errno == EINTR ? AGAIN : BROKEN;
}

#endif
