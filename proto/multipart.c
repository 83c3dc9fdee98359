/* SPDX-License-Identifier: MIT
 * A delimiter is CRLF, two hyphens and the boundary. CR stands in it at its beginning only, so a
 * match that fails half-way need not look back: what was held is data, and the byte at hand may
 * begin the next one. The first delimiter of a body has no CRLF before it. */
#include "proto/multipart.h"

#include <string.h>
#include <strings.h>

#include "proto/utf8.h"

enum state {
    START,       /* at the first delimiter */
    BEHIND,      /* behind a delimiter: CRLF or two hyphens */
    BEHIND_CR,   /* LF must follow */
    BEHIND_DASH, /* the second hyphen must follow */
    HEADERS,     /* collecting a part's headers */
    DATA,        /* in a part */
    CLOSED,      /* behind the last delimiter: CRLF may follow */
    CLOSED_CR,   /* LF must follow */
    DONE,        /* nothing may follow */
};

static const char token_chars[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
                                  "!#$%&'*+-.^_`|~";
static const char boundary_chars[] =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
    "'()+_,-./:=? ";

static const char *skip_blank(const char *text) { return text + strspn(text, " \t"); }

/* Copies a quoted string's inside; *at stands behind the opening quote, and then behind the closing
 * one. A backslash escapes a quote or a backslash only: some clients send Windows paths. */
static int quoted(const char **at, char *out, size_t size, struct lorica_error *err) {
    size_t used = 0;
    while (**at != '"') {
        if (**at == '\\' && ((*at)[1] == '"' || (*at)[1] == '\\'))
            (*at)++;
        if (**at == '\0')
            return lorica_fail(err, LORICA_EFORMAT, "multipart: a quoted value has no end");
        if (used + 1 >= size)
            return lorica_fail(err, LORICA_ELIMIT, "multipart: a value is over %zu bytes",
                               size - 1);
        out[used++] = *(*at)++;
    }
    (*at)++;
    out[used] = '\0';
    return 0;
}

/* Reads the next "; name=value" at *at. *ret_name is NULL at the end of the text. The value goes to
 * `out`, which is large enough for what may be asked for. */
static int parameter(const char **at, const char **ret_name, size_t *ret_name_len, char *out,
                     size_t size, struct lorica_error *err) {
    *ret_name = NULL;
    const char *p = skip_blank(*at);
    if (*p == '\0')
        return 0;
    if (*p++ != ';')
        return lorica_fail(err, LORICA_EFORMAT, "multipart: a parameter must follow a semicolon");
    p = skip_blank(p);
    const size_t len = strspn(p, token_chars);
    if (len == 0 || p[len] != '=')
        return lorica_fail(err, LORICA_EFORMAT, "multipart: a parameter is not name=value");
    *ret_name = p;
    *ret_name_len = len;
    p += len + 1;
    if (*p == '"') {
        *at = p + 1;
        return quoted(at, out, size, err);
    }
    const size_t value_len = strspn(p, token_chars);
    if (value_len == 0)
        return lorica_fail(err, LORICA_EFORMAT, "multipart: a parameter has no value");
    if (value_len >= size)
        return lorica_fail(err, LORICA_ELIMIT, "multipart: a value is over %zu bytes", size - 1);
    memcpy(out, p, value_len);
    out[value_len] = '\0';
    *at = p + value_len;
    return 0;
}

static bool is_name(const char *text, size_t len, const char *name) {
    return strlen(name) == len && strncasecmp(text, name, len) == 0;
}

static int set_boundary(struct lorica_multipart *reader, const char *boundary,
                        struct lorica_error *err) {
    const size_t len = strlen(boundary);
    if (reader->delimiter_len)
        return lorica_fail(err, LORICA_EFORMAT, "Content-Type: two boundaries");
    if (len == 0 || len > LORICA_MULTIPART_MAX_BOUNDARY || boundary[len - 1] == ' ' ||
        strspn(boundary, boundary_chars) != len)
        return lorica_fail(err, LORICA_EFORMAT,
                           "Content-Type: the boundary must be 1 to %d characters of RFC 2046",
                           LORICA_MULTIPART_MAX_BOUNDARY);
    memcpy(reader->delimiter, "\r\n--", 4);
    memcpy(reader->delimiter + 4, boundary, len);
    reader->delimiter_len = 4 + len;
    return 0;
}

int lorica_multipart_init(struct lorica_multipart *reader, const char *content_type,
                          const struct lorica_multipart_sink *sink, struct lorica_error *err) {
    static const char type[] = "multipart/form-data";
    reader->sink = *sink;
    reader->state = START;
    reader->failure = 0;
    reader->parts = 0;
    reader->matched = 2;
    reader->delimiter_len = 0;
    reader->headers_len = 0;
    const char *at = content_type + sizeof(type) - 1;
    if (strncasecmp(content_type, type, sizeof(type) - 1) != 0 || !strchr("; \t", *at))
        return reader->failure = lorica_fail(err, LORICA_EUNSUPPORTED,
                                             "Content-Type: multipart/form-data is needed here");
    for (;;) {
        const char *name;
        size_t name_len;
        char value[256];
        int rc = parameter(&at, &name, &name_len, value, sizeof(value), err);
        if (rc == 0 && name && is_name(name, name_len, "boundary"))
            rc = set_boundary(reader, value, err);
        if (rc)
            return reader->failure = rc;
        if (!name)
            break;
    }
    if (!reader->delimiter_len)
        return reader->failure =
                   lorica_fail(err, LORICA_EFORMAT, "Content-Type: the boundary is missing");
    return 0;
}

/* Name and filename of a part while its headers are read. */
struct part {
    bool has_disposition, has_name, has_filename;
    char name[LORICA_MULTIPART_MAX_NAME + 1];
    char filename[LORICA_MULTIPART_MAX_FILENAME + 1];
};

static int read_disposition(const char *value, struct part *part, struct lorica_error *err) {
    static const char type[] = "form-data";
    if (part->has_disposition)
        return lorica_fail(err, LORICA_EFORMAT, "multipart: two Content-Disposition in one part");
    part->has_disposition = true;
    const char *at = value + sizeof(type) - 1;
    if (strncasecmp(value, type, sizeof(type) - 1) != 0 || !strchr("; \t", *at))
        return lorica_fail(err, LORICA_EFORMAT, "multipart: Content-Disposition must be form-data");
    for (;;) {
        const char *name;
        size_t name_len;
        char text[LORICA_MULTIPART_MAX_FILENAME + 1];
        const int rc = parameter(&at, &name, &name_len, text, sizeof(text), err);
        if (rc)
            return rc;
        if (!name)
            return 0;
        const bool is_file = is_name(name, name_len, "filename");
        if (!is_file && !is_name(name, name_len, "name"))
            return lorica_fail(err, LORICA_EFORMAT,
                               "multipart: the parameter %.*s of Content-Disposition is not known",
                               (int)(name_len < 40 ? name_len : 40), name);
        bool *has = is_file ? &part->has_filename : &part->has_name;
        if (*has)
            return lorica_fail(err, LORICA_EFORMAT, "multipart: %s stands twice",
                               is_file ? "filename" : "name");
        *has = true;
        const size_t len = strlen(text);
        if (!is_file && len > LORICA_MULTIPART_MAX_NAME)
            return lorica_fail(err, LORICA_ELIMIT, "multipart: a name is over %d bytes",
                               LORICA_MULTIPART_MAX_NAME);
        memcpy(is_file ? part->filename : part->name, text, len + 1);
    }
}

/* One header line, terminated, without CRLF. */
static int read_header(const char *line, struct part *part, struct lorica_error *err) {
    const size_t len = strspn(line, token_chars);
    if (len == 0 || line[len] != ':')
        return lorica_fail(err, LORICA_EFORMAT, "multipart: a part's header line is malformed");
    const char *value = skip_blank(line + len + 1);
    if (is_name(line, len, "Content-Disposition"))
        return read_disposition(value, part, err);
    if (is_name(line, len, "Content-Transfer-Encoding")) {
        const size_t value_len = strcspn(value, " \t");
        if ((is_name(value, value_len, "binary") || is_name(value, value_len, "8bit") ||
             is_name(value, value_len, "7bit")) &&
            *skip_blank(value + value_len) == '\0')
            return 0;
        return lorica_fail(err, LORICA_EUNSUPPORTED,
                           "multipart: Content-Transfer-Encoding must be binary");
    }
    return 0;
}

/* No control characters (a tab apart), and UTF-8. */
static int check_headers(const char *text, size_t len, struct lorica_error *err) {
    for (size_t i = 0; i < len; i++) {
        const unsigned char c = (unsigned char)text[i];
        const bool line_end = (c == '\r' && i + 1 < len && text[i + 1] == '\n') ||
                              (c == '\n' && i > 0 && text[i - 1] == '\r');
        if ((c < 0x20 && c != '\t' && !line_end) || c == 0x7f)
            return lorica_fail(err, LORICA_EFORMAT,
                               "multipart: a control character in a part's headers");
    }
    if (!lorica_utf8_valid(text, len))
        return lorica_fail(err, LORICA_EFORMAT, "multipart: a part's headers are not UTF-8");
    return 0;
}

/* The headers are complete: reads them and tells that a part begins. */
static int begin_part(struct lorica_multipart *reader, struct lorica_error *err) {
    struct part part = {0};
    const size_t len = reader->headers_len;
    int rc = check_headers(reader->headers, len, err);
    if (rc)
        return rc;
    size_t at = 0;
    while (at + 2 < len) {
        char *line = reader->headers + at;
        char *end = memchr(line, '\r', len - at);
        if (!end)
            return lorica_fail(err, LORICA_EBUG, "multipart: headers without an end");
        *end = '\0';
        at = (size_t)(end - reader->headers) + 2;
        rc = read_header(line, &part, err);
        if (rc)
            return rc;
    }
    if (!part.has_name)
        return lorica_fail(err, LORICA_EFORMAT, "multipart: a part has no name");
    if (++reader->parts > LORICA_MULTIPART_MAX_PARTS)
        return lorica_fail(err, LORICA_ELIMIT, "multipart: more than %d parts",
                           LORICA_MULTIPART_MAX_PARTS);
    reader->headers_len = 0;
    reader->matched = 0;
    reader->state = DATA;
    return reader->sink.on_part(reader->sink.user, part.name,
                                part.has_filename ? part.filename : NULL, err);
}

/* One more byte of headers. An empty line ends them, be it the first. */
static int feed_header(struct lorica_multipart *reader, char byte, struct lorica_error *err) {
    if (reader->headers_len == LORICA_MULTIPART_MAX_HEADERS)
        return lorica_fail(err, LORICA_ELIMIT, "multipart: a part's headers are over %d bytes",
                           LORICA_MULTIPART_MAX_HEADERS);
    reader->headers[reader->headers_len++] = byte;
    const size_t len = reader->headers_len;
    const char *end = reader->headers + len;
    if ((len == 2 && memcmp(end - 2, "\r\n", 2) == 0) ||
        (len >= 4 && memcmp(end - 4, "\r\n\r\n", 4) == 0))
        return begin_part(reader, err);
    return 0;
}

static int emit(struct lorica_multipart *reader, const char *bytes, size_t len,
                struct lorica_error *err) {
    return len ? reader->sink.on_data(reader->sink.user, bytes, len, err) : 0;
}

/* How many of the last bytes may be the begin of a delimiter. */
static size_t begun_delimiter(const struct lorica_multipart *reader, const char *bytes,
                              size_t len) {
    size_t at = len < reader->delimiter_len ? 0 : len - reader->delimiter_len + 1;
    while (at < len && memcmp(bytes + at, reader->delimiter, len - at) != 0)
        at++;
    return len - at;
}

/* Goes on with a delimiter that a piece before began; what turns out to be none was data. */
static int resume_delimiter(struct lorica_multipart *reader, const char *bytes, size_t len,
                            size_t *ret_used, struct lorica_error *err) {
    const size_t held = reader->matched;
    size_t at = 0;
    while (at < len && reader->matched < reader->delimiter_len &&
           bytes[at] == reader->delimiter[reader->matched]) {
        reader->matched++;
        at++;
    }
    *ret_used = at;
    if (reader->matched == reader->delimiter_len) {
        reader->state = BEHIND;
        return reader->sink.on_part_end(reader->sink.user, err);
    }
    if (at == len)
        return 0;
    reader->matched = 0;
    *ret_used = 0;
    return emit(reader, reader->delimiter, held, err);
}

/* Data up to the next delimiter or the end of the piece, in as few pieces as can be; *ret_used
 * tells how far it came. */
static int feed_data(struct lorica_multipart *reader, const char *bytes, size_t len,
                     size_t *ret_used, struct lorica_error *err) {
    if (reader->matched > 0)
        return resume_delimiter(reader, bytes, len, ret_used, err);
    const char *found = memmem(bytes, len, reader->delimiter, reader->delimiter_len);
    const size_t held = found ? reader->delimiter_len : begun_delimiter(reader, bytes, len);
    const size_t plain = found ? (size_t)(found - bytes) : len - held;
    int rc = emit(reader, bytes, plain, err);
    reader->matched = held;
    *ret_used = plain + held;
    if (found) {
        reader->state = BEHIND;
        if (rc == 0)
            rc = reader->sink.on_part_end(reader->sink.user, err);
    }
    return rc;
}

/* One byte outside of headers and data. */
static int feed_frame(struct lorica_multipart *reader, char byte, struct lorica_error *err) {
    static const struct {
        char byte;
        enum state next;
    } steps[][2] = {
        [BEHIND] = {{'\r', BEHIND_CR}, {'-', BEHIND_DASH}},
        [BEHIND_CR] = {{'\n', HEADERS}, {'\n', HEADERS}},
        [BEHIND_DASH] = {{'-', CLOSED}, {'-', CLOSED}},
        [CLOSED] = {{'\r', CLOSED_CR}, {'\r', CLOSED_CR}},
        [CLOSED_CR] = {{'\n', DONE}, {'\n', DONE}},
    };
    if (reader->state == START) {
        if (byte != reader->delimiter[reader->matched])
            return lorica_fail(err, LORICA_EFORMAT,
                               "multipart: the body does not begin with its boundary");
        if (++reader->matched == reader->delimiter_len)
            reader->state = BEHIND;
        return 0;
    }
    for (int i = 0; i < 2 && reader->state != DONE; i++) {
        if (steps[reader->state][i].byte == byte) {
            reader->state = steps[reader->state][i].next;
            return 0;
        }
    }
    return lorica_fail(err, LORICA_EFORMAT, "multipart: stray bytes behind a boundary");
}

int lorica_multipart_feed(struct lorica_multipart *reader, const void *bytes, size_t len,
                          struct lorica_error *err) {
    const char *text = bytes;
    int rc = 0;
    if (reader->failure)
        return lorica_fail(err, reader->failure, "multipart: the body failed before");
    while (len > 0 && rc == 0) {
        size_t used = 1;
        if (reader->state == DATA)
            rc = feed_data(reader, text, len, &used, err);
        else if (reader->state == HEADERS)
            rc = feed_header(reader, *text, err);
        else
            rc = feed_frame(reader, *text, err);
        text += used;
        len -= used;
    }
    reader->failure = rc;
    return rc;
}

int lorica_multipart_end(struct lorica_multipart *reader, struct lorica_error *err) {
    if (reader->failure)
        return lorica_fail(err, reader->failure, "multipart: the body failed before");
    if (reader->state == CLOSED || reader->state == DONE)
        return 0;
    return reader->failure = lorica_fail(err, LORICA_EFORMAT,
                                         "multipart: the body ends before its last boundary");
}
