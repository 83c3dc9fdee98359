/* SPDX-License-Identifier: MIT
 * lorica(1), written from the table of commands, so that page and program cannot differ. */
#include <string.h>

#include "gateway/cmd/cmd.h"

/* Writes text with what troff would take for itself escaped: backslashes, hyphens (which must stay
 * minus signs to be copied from the page), and a control character at the start of a line. */
static void escape(FILE *out, const char *text, size_t len) {
    if (len > 0 && (text[0] == '.' || text[0] == '\''))
        (void)fputs("\\&", out);
    for (size_t i = 0; i < len; i++) {
        if (text[i] == '\\')
            (void)fputs("\\e", out);
        else if (text[i] == '-')
            (void)fputs("\\-", out);
        else if (text[i] == '"')
            (void)fputs("\\(dq", out); /* a plain one would quote an argument of .B */
        else
            (void)fputc(text[i], out);
    }
}

static void line(FILE *out, const char *request, const char *text) {
    (void)fputs(request, out);
    escape(out, text, strlen(text));
    (void)fputc('\n', out);
}

static void items(FILE *out, const char *text) {
    struct lorica_help_item item;
    while (lorica_help_next(&text, &item)) {
        (void)fputs(item.term ? ".TP\n.B " : ".PP\n", out);
        if (item.term) {
            escape(out, item.term, item.term_len);
            (void)fputc('\n', out);
        }
        escape(out, item.text, item.text_len);
        (void)fputc('\n', out);
    }
}

static const char environment[] =
    "LORICA_DATA\tThe data directory where no --data is given.\n"
    "LORICA_SERVER\tThe server where no --server is given, as https://HOST:PORT.\n"
    "LORICA_API_KEY\tThe API key; otherwise DIR/admin.key where it is readable.\n"
    "LORICA_CPU\tThe best instruction set to use: c, avx2, avxvnni, avx512 or neon.\n"
    "XDG_DATA_HOME\tThe data directory is $XDG_DATA_HOME/lorica where LORICA_DATA is not set.\n";

static const char files[] =
    "DIR\tThe data directory: --data, else $LORICA_DATA, else $XDG_DATA_HOME/lorica, else "
    "~/.local/share/lorica.\n"
    "DIR/lorica.conf\tThe configuration.\n"
    "DIR/admin.key\tThe first admin key, one line, readable by its owner only.\n"
    "DIR/tls/ca.pem\tThe certificate of the authority that signed the server's; clients trust it.\n"
    "DIR/tls/server.pem\tThe server's certificate.\n"
    "DIR/tls/server.key\tThe server's key, readable by its owner only.\n"
    "DIR/bases/\tBase models, one immutable file each, named by digest.\n"
    "DIR/registry/\tThe registry: adapters with their weights, channels, keys and the audit "
    "chain.\n"
    "DIR/spool/\tUploads in flight.\n";

static const char examples[] =
    "lorica init && lorica base import model.gguf && lorica serve\tMake a data directory, import a "
    "base model and answer on https://127.0.0.1:8443.\n"
    "lorica train cardiology cardiology.jsonl --publish --channel stable\tTrain an adapter and let "
    "it answer for cardiology.\n"
    "lorica adapter publish cardiology DIR --channel canary\tPublish what PEFT wrote; "
    "cardiology:canary answers with it, cardiology as before.\n"
    "lorica adapter promote cardiology@4\tLet version 4 answer for cardiology.\n"
    "lorica adapter rollback cardiology --reason \"too terse\"\tLet the version before answer "
    "again.\n"
    "lorica key create web-chat --role infer --adapter 'cardio*'\tMake a key that may only ask, "
    "and only those adapters.\n"
    "lorica chat cardiology --prompt \"Where do I find you?\"\tAsk one question.\n";

void lorica_help_man(FILE *out) {
    const struct lorica_cmd *cmd;
    (void)fputs(".\\\" Written by \"lorica help --man\".\n", out);
    (void)fputs(
        ".TH LORICA 1 \"\" \"lorica " LORICA_VERSION "\" \"User Commands\"\n"
        ".SH NAME\n"
        "lorica \\- registry and HTTPS gateway for LoRA adapters on one 4\\-bit base model\n"
        ".SH SYNOPSIS\n"
        ".B lorica\n.I COMMAND\n[words and options]\n.br\n"
        ".B lorica help\n[\\fICOMMAND\\fR]\n.br\n"
        ".B lorica \\-\\-version\n"
        ".SH DESCRIPTION\n"
        "Lorica keeps one frozen base model in memory, keeps a registry of versioned LoRA\n"
        "adapters, and answers HTTPS requests with the adapter that each request names.\n"
        "Options may stand anywhere behind the command; \\-\\- ends them.\n"
        ".SH COMMANDS\n",
        out);
    for (size_t i = 0; (cmd = lorica_command_at(i)); i++) {
        (void)fputs(".SS lorica ", out);
        line(out, "", cmd->name);
        line(out, ".B lorica ", cmd->name);
        if (*cmd->synopsis)
            line(out, "", cmd->synopsis);
        line(out, ".PP\n", cmd->summary);
        items(out, cmd->help);
    }
    (void)fputs(".SH EXAMPLES\n", out);
    items(out, examples);
    (void)fputs(".SH EXIT STATUS\n", out);
    items(out, "0\tDone.\n1\tFailed; a sentence on standard error says why.\n2\tWrong usage.\n");
    (void)fputs(".SH ENVIRONMENT\n", out);
    items(out, environment);
    (void)fputs(".SH FILES\n", out);
    items(out, files);
}
