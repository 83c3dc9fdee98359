/* SPDX-License-Identifier: MIT
 * One client's connection: TLS below, HTTP above, one request at a time.
 *
 *                     +------------------------------------------------+
 *                     v                                                |
 *   HANDSHAKE -> IDLE -> HEAD -> CHECK -> BODY <-> SPOOL               |
 *                                  |        |        |                 |
 *                                  +--------+-> WORK +-> SEND ---------+
 *                                               |        ^ ^ |
 *                                               +-> STREAM | |-> LINGER -> CLOSING
 *                                                          | v
 *                                                         FETCH
 *
 * Any state may go to CLOSING; HEAD, CHECK, BODY and SPOOL may answer an error and so go to SEND.
 * Only conn_set_state writes the state, only lorica_conn_close ends a connection, and there is one
 * timer. All on the loop thread. */
#ifndef LORICA_GATEWAY_SERVER_CONN_H
#define LORICA_GATEWAY_SERVER_CONN_H

#include <uv.h>

#include "gateway/server/http.h"
#include "gateway/server/request.h"
#include "gateway/server/tls.h"

/** Deadlines, in milliseconds. */
#define LORICA_HANDSHAKE_MS 10000
#define LORICA_HEAD_MS 10000      /**< from the first byte of a request to the end of its head */
#define LORICA_BODY_IDLE_MS 15000 /**< between two pieces of a body */
#define LORICA_SEND_MS 30000      /**< without progress in sending */
#define LORICA_IDLE_MS 60000      /**< between two requests */
#define LORICA_LINGER_MS 2000     /**< after an answer that closes */
#define LORICA_PING_MS 15000      /**< between a stream's comments while the engine is silent */
#define LORICA_LIFETIME_MS 3600000
/** Requests on one connection. */
#define LORICA_CONN_REQUESTS 1000
/** Plaintext that may wait behind the present request. */
#define LORICA_CONN_LEFTOVER ((size_t)64 << 10)
/** Bytes of a stream that its reader has not taken. */
#define LORICA_CONN_UNSENT ((size_t)256 << 10)
/** A body must bring this many bytes per second on average. */
#define LORICA_BODY_RATE 1024
/** Bytes thrown away while lingering. */
#define LORICA_LINGER_BYTES ((size_t)1 << 20)

enum lorica_conn_state {
    LORICA_CONN_HANDSHAKE, /**< TLS is not agreed yet */
    LORICA_CONN_IDLE,      /**< between requests */
    LORICA_CONN_HEAD,      /**< the first byte of a head came */
    LORICA_CONN_CHECK,     /**< a worker judges the key; nothing is read from the body */
    LORICA_CONN_BODY,      /**< the body comes in */
    LORICA_CONN_SPOOL,     /**< a piece of an upload waits to be stored; nothing is read */
    LORICA_CONN_WORK,      /**< the handler works */
    LORICA_CONN_STREAM,    /**< server-sent events go out as they come */
    LORICA_CONN_SEND,      /**< the rest of the answer goes out */
    LORICA_CONN_FETCH,     /**< a worker reads the next piece of the answer */
    LORICA_CONN_LINGER,    /**< all is said; what still comes in is thrown away */
    LORICA_CONN_CLOSING,   /**< the handles are being closed */
    LORICA_CONN_STATE_COUNT
};

struct lorica_conn {
    uv_tcp_t tcp;
    uv_timer_t timer;
    uv_shutdown_t shutdown;
    unsigned handles; /**< open ones; the last close callback frees the connection */
    struct lorica_server *server;
    struct lorica_conn *prev, *next; /**< the server's list */
    enum lorica_conn_state state;    /**< written by conn_set_state only */
    struct lorica_tls *tls;
    struct lorica_http http;
    struct lorica_buf in;           /**< plaintext not yet given to http */
    struct lorica_request *request; /**< the present one; a reference */
    size_t unsent;                  /**< ciphertext that libuv has not sent */
    size_t sent;                    /**< of the response's body, or its piece: bytes encrypted */
    size_t lingered;                /**< bytes thrown away */
    uint64_t opened_ms, body_began_ms;
    unsigned requests;
    bool last; /**< the present answer is the connection's last */
};

/** Takes a waiting connection from the listener. */
void lorica_conn_accept(struct lorica_server *server);
/** Ends it at once: the request, if any, loses its client. `reason` goes to the log. */
void lorica_conn_close(struct lorica_conn *conn, const char *reason);
/** Asks an idle connection to go, and lets a busy one finish its answer and then go. */
void lorica_conn_drain(struct lorica_conn *conn);

/* For the dispatcher: */

/** Goes to CHECK, SPOOL or WORK: somebody else has the request now. */
void lorica_conn_wait(struct lorica_conn *conn, enum lorica_conn_state state);
/** In SPOOL: the dispatcher is called again (lorica_dispatch_paused) after so many milliseconds. */
void lorica_conn_pause(struct lorica_conn *conn, uint64_t ms);
/** Goes (back) to BODY and reads on. */
void lorica_conn_read_body(struct lorica_conn *conn);
/** Sends the request's response. */
void lorica_conn_respond(struct lorica_conn *conn);
/** Sends the head of a stream of server-sent events. */
void lorica_conn_stream_begin(struct lorica_conn *conn);
/** Sends a piece of it. May close the connection, when its reader is too slow. */
void lorica_conn_stream(struct lorica_conn *conn, const char *bytes, size_t len);
/** Ends the stream. `cut`: it broke off, and the connection must show that by closing. */
void lorica_conn_stream_end(struct lorica_conn *conn, bool cut);

#endif
