/* SPDX-License-Identifier: MIT
 * What commands share: options, numbers, the data directory, progress. */
#include "gateway/cmd/cmd.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "gateway/cmd/table.h"

#define OPTIONS_MAX 64 /* more than any command has */

int lorica_cmd_fail(const struct lorica_error *err) {
    const char *text = err->text[0] ? err->text : lorica_err_text(err->code);
    (void)fputs("lorica: ", stderr);
    lorica_print_plain(stderr, text, strlen(text)); /* it may come from a server */
    (void)fputc('\n', stderr);
    return LORICA_EXIT_FAILED;
}

int lorica_cmd_print_json(struct lorica_buf *out, int rc, struct lorica_error *err) {
    if (rc == 0 && (rc = lorica_buf_status(out)) != 0)
        rc = lorica_fail(err, rc, "the JSON cannot be printed: %s", lorica_err_text(rc));
    if (rc == 0)
        (void)printf("%s\n", out->data);
    lorica_buf_finish(out);
    return rc;
}

int lorica_cmd_usage(const struct lorica_cmd *cmd, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    (void)fprintf(stderr, "lorica %s: ", cmd->name);
    (void)vfprintf(stderr, fmt, args);
    va_end(args);
    (void)fprintf(stderr, "\nusage: lorica %s%s%s\nlorica help %s tells more\n", cmd->name,
                  *cmd->synopsis ? " " : "", cmd->synopsis, cmd->name);
    return LORICA_EXIT_USAGE;
}

/* State of one walk over the words. */
struct walk {
    const struct lorica_cmd *cmd;
    const struct lorica_option *options;
    size_t count;
    bool given[OPTIONS_MAX];
    size_t list_counts[OPTIONS_MAX];
};

static int unknown_option(const struct walk *walk, const char *word, size_t len) {
    const char *names[OPTIONS_MAX + 1];
    char name[64];
    for (size_t i = 0; i < walk->count; i++)
        names[i] = walk->options[i].name;
    names[walk->count] = NULL;
    (void)snprintf(name, sizeof(name), "%.*s", (int)(len < 60 ? len : 60), word);
    const char *best = lorica_suggest(name, names);
    (void)lorica_cmd_usage(walk->cmd, "there is no option --%s%s%s%s", name,
                           best ? "; did you mean --" : "", best ? best : "", best ? "?" : "");
    return -1;
}

static int list_add(struct walk *walk, size_t index, const char *value) {
    const char ***list = walk->options[index].list;
    const size_t n = walk->list_counts[index];
    const char **longer = reallocarray(*list, n + 2, sizeof(*longer));
    if (!longer) {
        (void)fprintf(stderr, "lorica: out of memory\n");
        return -1;
    }
    longer[n] = value;
    longer[n + 1] = NULL;
    walk->list_counts[index] = n + 1;
    *list = longer;
    return 0;
}

/* Takes one option; `word` stands behind the dashes, `next` is the word behind it or NULL.
 * Returns how many words it took, or -1. */
static int take_option(struct walk *walk, const char *word, const char *next) {
    const char *equals = strchr(word, '=');
    const size_t len = equals ? (size_t)(equals - word) : strlen(word);
    size_t i = 0;
    while (i < walk->count &&
           (strncmp(walk->options[i].name, word, len) != 0 || walk->options[i].name[len] != '\0'))
        i++;
    if (i == walk->count)
        return unknown_option(walk, word, len);
    const struct lorica_option *option = &walk->options[i];
    if (walk->given[i] && !option->list) {
        (void)lorica_cmd_usage(walk->cmd, "--%s is given twice", option->name);
        return -1;
    }
    walk->given[i] = true;
    if (option->flag) {
        if (equals) {
            (void)lorica_cmd_usage(walk->cmd, "--%s takes no value", option->name);
            return -1;
        }
        *option->flag = true;
        return 1;
    }
    const char *value = equals ? equals + 1 : next;
    if (!value || (!equals && strncmp(value, "--", 2) == 0)) {
        (void)lorica_cmd_usage(walk->cmd, "--%s needs a value%s", option->name,
                               value ? " (one that begins with \"--\" is written behind a \"=\")"
                                     : "");
        return -1;
    }
    if (option->list && list_add(walk, i, value) < 0)
        return -1;
    if (!option->list)
        *option->value = value;
    return equals ? 1 : 2;
}

static int take_words(struct walk *walk, int argc, char **argv) {
    int words = 0;
    for (int i = 0; i < argc;) {
        if (strcmp(argv[i], "--") == 0) {
            for (i++; i < argc; i++)
                argv[words++] = argv[i];
        } else if (strncmp(argv[i], "--", 2) == 0) {
            const int took = take_option(walk, argv[i] + 2, i + 1 < argc ? argv[i + 1] : NULL);
            if (took < 0)
                return -1;
            i += took;
        } else if (argv[i][0] == '-' && argv[i][1] != '\0') {
            (void)lorica_cmd_usage(walk->cmd, "there is no option %s; options begin with \"--\"",
                                   argv[i]);
            return -1;
        } else {
            argv[words++] = argv[i++];
        }
    }
    return words;
}

int lorica_cmd_options(const struct lorica_cmd *cmd, int argc, char **argv,
                       const struct lorica_option *options, size_t count, int min_words,
                       int max_words) {
    struct walk walk = {.cmd = cmd, .options = options, .count = count};
    if (count > OPTIONS_MAX)
        abort(); /* a mistake in the program: found by the first run of the command */
    for (size_t i = 0; i < count; i++)
        if (options[i].list)
            *options[i].list = NULL;
    int words = take_words(&walk, argc, argv);
    if (words > max_words) {
        (void)lorica_cmd_usage(cmd, "\"%s\" is one word too many", argv[max_words]);
        words = -1;
    } else if (words >= 0 && words < min_words) {
        (void)lorica_cmd_usage(cmd, "%s",
                               words == 0 ? "what to work on is missing" : "a word is missing");
        words = -1;
    }
    for (size_t i = 0; words < 0 && i < count; i++) {
        if (!options[i].list)
            continue;
        free((void *)*options[i].list);
        *options[i].list = NULL;
    }
    return words;
}

bool lorica_cmd_kv(const char *text, enum lorica_kv_format *ret) {
    if (lorica_kv_format_find(text, ret))
        return true;
    (void)fprintf(stderr, "lorica: --kv must be bf16 or int8, not \"%s\"\n", text);
    return false;
}

bool lorica_cmd_integer(const char *option, const char *text, long long min, long long max,
                        long long *ret) {
    char *end = NULL;
    errno = 0;
    const long long number = strtoll(text, &end, 10);
    const bool digits =
        text[0] == '-' ? text[1] >= '0' && text[1] <= '9' : text[0] >= '0' && text[0] <= '9';
    if (!digits || *end != '\0' || errno != 0 || number < min || number > max) {
        (void)fprintf(stderr, "lorica: --%s must be a whole number from %lld to %lld, not \"%s\"\n",
                      option, min, max, text);
        return false;
    }
    *ret = number;
    return true;
}

bool lorica_cmd_number(const char *option, const char *text, double min, double max, double *ret) {
    char *end = NULL;
    const bool plain = text[0] != '\0' && strspn(text, "0123456789.eE+-") == strlen(text);
    const double number = strtod(text, &end);
    if (!plain || *end != '\0' || !isfinite(number) || number < min || number > max) {
        (void)fprintf(stderr, "lorica: --%s must be a number from %g to %g, not \"%s\"\n", option,
                      min, max, text);
        return false;
    }
    *ret = number;
    return true;
}

char *lorica_data_dir(const char *option) {
    const char *env = getenv("LORICA_DATA"), *xdg = getenv("XDG_DATA_HOME"), *home = getenv("HOME");
    char *dir = NULL;
    int n = 0;
    if (option && *option)
        dir = strdup(option);
    else if (option)
        n = -2;
    else if (env && *env)
        dir = strdup(env);
    else if (xdg && *xdg)
        n = asprintf(&dir, "%s/lorica", xdg);
    else if (home && *home)
        n = asprintf(&dir, "%s/.local/share/lorica", home);
    else
        n = -2;
    if (n == -2) {
        (void)fprintf(stderr, "lorica: no data directory is named: give --data DIR, or set "
                              "LORICA_DATA or HOME\n");
        return NULL;
    }
    if (n == -1 || !dir) {
        (void)fprintf(stderr, "lorica: out of memory\n");
        return NULL;
    }
    for (size_t len = strlen(dir); len > 1 && dir[len - 1] == '/'; len--)
        dir[len - 1] = '\0';
    return dir;
}

/* What the last call of lorica_progress showed. */
static struct {
    char what[64];
    int shown; /* percent, or -1 */
    struct timespec start;
} progress = {.shown = -1};

#define BAR_COLUMNS 30

static void progress_bar(const char *what, int percent, double seconds) {
    static const char full[] = "##############################";
    const int filled = percent * BAR_COLUMNS / 100;
    (void)fprintf(stderr, "\r%-28.28s [%.*s%*s] %3d %%", what, filled, full, BAR_COLUMNS - filled,
                  "", percent);
    if (percent > 0 && percent < 100 && seconds > 2)
        (void)fprintf(stderr, " %5.0f s left", seconds * (100 - percent) / percent);
    else
        (void)fprintf(stderr, "              ");
    if (percent == 100)
        (void)fputc('\n', stderr);
}

void lorica_progress(void *arg, const char *what, unsigned long long done,
                     unsigned long long total) {
    struct timespec now = {0};
    const bool tty = isatty(STDERR_FILENO) == 1;
    const double share = total == 0 || done >= total ? 1 : (double)done / (double)total;
    const int step = tty ? 1 : 10;
    const int percent = (int)(share * 100) / step * step;
    (void)arg;
    (void)clock_gettime(CLOCK_MONOTONIC, &now);
    if (strncmp(progress.what, what, sizeof(progress.what) - 1) != 0 || percent < progress.shown) {
        (void)snprintf(progress.what, sizeof(progress.what), "%s", what);
        progress.start = now;
        progress.shown = -1;
    }
    if (percent == progress.shown)
        return;
    progress.shown = percent;
    const double seconds = (double)(now.tv_sec - progress.start.tv_sec) +
                           (double)(now.tv_nsec - progress.start.tv_nsec) * 1e-9;
    if (tty)
        progress_bar(what, percent, seconds);
    else
        (void)fprintf(stderr, "%s: %d %%\n", what, percent);
}
