/* SPDX-License-Identifier: MIT
 * lorica train: its command line. */
#include <stdlib.h>
#include <string.h>

#include "gateway/cmd/cmd.h"
#include "gateway/mlflow/mlflow_journal.h"
#include "gateway/train/train.h"
#include "registry/registry.h"
#include "runtime/train/data.h"

#define WORDS_MAX 1000
#define FULL_LR 5e-5 /* as Hugging Face's trainer: every weight moves by itself */
#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* The words of the command line whose meaning goes into the job. */
struct train {
    struct lorica_train_job job;
    const char *rank, *alpha, *targets, *lr, *schedule, *warmup, *epochs, *steps, *batch;
    const char *accumulate, *max_length, *max_grad_norm, *weight_decay, *beta1, *beta2, *eps;
    const char *dropout, *seed, *threads, *loss, *compute, *checkpoint_steps, *optimizer;
    const char *eval_split, *eval_every, *patience, *mlflow_sync;
    bool check;
    char *columns; /* owned: --columns, cut at its comma */
};

static bool whole(const char *name, const char *text, long long min, long long max, uint64_t *ret) {
    long long value;
    if (!lorica_cmd_integer(name, text, min, max, &value))
        return false;
    *ret = (uint64_t)value;
    return true;
}

static bool parse_schedule(const char *word, enum lorica_schedule *ret) {
    static const char *const names[] = {"constant", "linear", "cosine"};
    for (int i = 0; i < 3; i++) {
        if (strcmp(word, names[i]) == 0) {
            *ret = (enum lorica_schedule)i;
            return true;
        }
    }
    (void)lorica_cmd_usage(&lorica_cmd_train, "--schedule %s: constant, linear or cosine expected",
                           word);
    return false;
}

static bool parse_keeping(struct train *t) {
    const char *optimizer = t->optimizer ? t->optimizer : "adamw";
    t->job.options.adamw.eight_bit = strcmp(optimizer, "adamw-8bit") == 0;
    t->job.checkpoint_steps = 100;
    if (!t->job.options.adamw.eight_bit && strcmp(optimizer, "adamw") != 0) {
        (void)lorica_cmd_usage(&lorica_cmd_train, "--optimizer %s: adamw or adamw-8bit expected",
                               optimizer);
        return false;
    }
    return !t->checkpoint_steps ||
           whole("checkpoint-steps", t->checkpoint_steps, 0, 100000000, &t->job.checkpoint_steps);
}

/* A replay is compared with others: it is exact unless something else is asked for. */
static bool parse_compute(struct train *t) {
    const char *word = t->compute ? t->compute : t->job.replay || t->job.full ? "exact" : "fast";
    const bool exact = strcmp(word, "exact") == 0;
    if (!exact && strcmp(word, "fast") != 0) {
        (void)lorica_cmd_usage(&lorica_cmd_train, "--compute %s: exact or fast expected", word);
        return false;
    }
    t->job.options.compute = exact ? LORICA_TRAIN_EXACT : LORICA_TRAIN_FAST;
    return true;
}

/* How the data is read. */
static bool parse_data(struct train *t) {
    struct lorica_train_job *job = &t->job;
    const char *columns = job->columns[0];
    if (t->loss && strcmp(t->loss, "answer") != 0 && strcmp(t->loss, "all") != 0) {
        (void)lorica_cmd_usage(&lorica_cmd_train, "--loss %s: answer or all expected", t->loss);
        return false;
    }
    job->whole = t->loss && strcmp(t->loss, "all") == 0;
    if (!columns)
        return true;
    char *comma = (t->columns = strdup(columns)) ? strchr(t->columns, ',') : NULL;
    if (!comma || comma == t->columns || !comma[1] || strchr(comma + 1, ',')) {
        (void)lorica_cmd_usage(&lorica_cmd_train,
                               "--columns %s: the names of two columns are expected, with a comma "
                               "between them",
                               columns);
        return false;
    }
    *comma = '\0';
    job->columns[0] = t->columns;
    job->columns[1] = comma + 1;
    return true;
}

static bool parse_loop(struct train *t) {
    struct lorica_trainer_options *o = &t->job.options;
    uint64_t batch = o->batch, accumulate = o->accumulate;
    bool fine = true;
    if (t->job.full)
        o->lr = FULL_LR;
    if (t->lr)
        fine &= lorica_cmd_number("lr", t->lr, 1e-9, 100, &o->lr);
    if (t->schedule)
        fine &= parse_schedule(t->schedule, &o->schedule);
    if (t->warmup)
        fine &= lorica_cmd_number("warmup", t->warmup, 0, 1, &o->warmup);
    if (t->epochs)
        fine &= lorica_cmd_number("epochs", t->epochs, 0.01, 10000, &o->epochs);
    if (t->steps)
        fine &= whole("steps", t->steps, 1, 100000000, &o->steps);
    if (t->batch)
        fine &= whole("batch", t->batch, 1, 1024, &batch);
    if (t->accumulate)
        fine &= whole("accumulate", t->accumulate, 1, 100000, &accumulate);
    if (t->seed)
        fine &= whole("seed", t->seed, 0, (long long)1 << 53, &o->seed);
    if (t->max_grad_norm)
        fine &= lorica_cmd_number("max-grad-norm", t->max_grad_norm, 0, 1e9, &o->max_grad_norm);
    o->batch = (uint32_t)batch;
    o->accumulate = (uint32_t)accumulate;
    return fine;
}

/* What is held apart, and what its loss decides. */
static bool parse_eval(struct train *t) {
    struct lorica_trainer_options *o = &t->job.options;
    uint64_t patience = 0;
    bool fine = true;
    if (t->eval_split)
        fine &= lorica_cmd_number("eval-split", t->eval_split, 0.0001, 0.9, &t->job.eval_split);
    if (t->eval_every)
        fine &= whole("eval-every", t->eval_every, 1, 100000000, &o->eval_every);
    if (t->patience)
        fine &= whole("patience", t->patience, 1, 1000000, &patience);
    o->patience = (uint32_t)patience;
    return fine;
}

static bool parse_adamw(struct train *t) {
    struct lorica_adamw_options *a = &t->job.options.adamw;
    bool fine = true;
    if (t->weight_decay)
        fine &= lorica_cmd_number("weight-decay", t->weight_decay, 0, 1, &a->weight_decay);
    if (t->beta1)
        fine &= lorica_cmd_number("beta1", t->beta1, 0, 0.999999, &a->beta1);
    if (t->beta2)
        fine &= lorica_cmd_number("beta2", t->beta2, 0, 0.999999999, &a->beta2);
    if (t->eps)
        fine &= lorica_cmd_number("eps", t->eps, 1e-16, 1, &a->eps);
    return fine;
}

static bool parse_spec(struct train *t) {
    struct lorica_train_spec *s = &t->job.spec;
    struct lorica_error err = {0};
    uint64_t rank = 8;
    bool fine = !t->rank || whole("rank", t->rank, 1, 4096, &rank);
    s->rank = (uint32_t)rank;
    s->alpha = 2.0 * (double)rank;
    if (t->alpha)
        fine &= lorica_cmd_number("alpha", t->alpha, 0.001, 100000, &s->alpha);
    if (t->dropout)
        fine &= lorica_cmd_number("dropout", t->dropout, 0, 0.99, &s->dropout);
    if (lorica_train_targets_parse(t->targets ? t->targets : "all-linear", s->targets, &err) != 0) {
        (void)lorica_cmd_usage(&lorica_cmd_train, "--targets: %s", err.text);
        fine = false;
    }
    s->seed = t->job.options.seed;
    t->job.options.dropout = (float)s->dropout;
    uint64_t length = 512, threads = 0;
    if (t->max_length)
        fine &= whole("max-length", t->max_length, 8, 1 << 20, &length);
    if (t->threads)
        fine &= whole("threads", t->threads, 0, 256, &threads);
    t->job.max_length = (uint32_t)length;
    t->job.threads = (unsigned)threads;
    return fine;
}

/* Ways of running besides training, and the options that each of them has a use for. */
static const struct {
    const char *name, *takes;
} ways[] = {
    {"replay", " replay full init out base lr max-grad-norm weight-decay beta1 beta2 eps optimizer "
               "threads compute "
               "checkpoint-activations data server ca "},
    {"check", " check json base rank targets max-length loss columns skip-bad threads data server "
              "ca "},
    {"estimate", " estimate json batch max-length rank targets dropout compute "
                 "checkpoint-activations threads data server ca "},
    {"full",
     " full replay out base eval eval-split eval-every patience pack loss columns skip-bad lr "
     "schedule warmup epochs steps batch accumulate max-length max-grad-norm weight-decay "
     "beta1 beta2 eps seed threads checkpoint-activations checkpoint-steps resume log data server "
     "ca "},
    {"mlflow-sync", " mlflow-sync mlflow mlflow-ca "},
};

static bool is_given(const struct lorica_option *option) {
    return option->flag ? *option->flag : *option->value != NULL;
}

/* Prints which option does not go with the way of running that another one chose. */
static bool options_fit(const struct lorica_option *options, size_t count) {
    for (size_t w = 0; w < COUNT(ways); w++) {
        bool chosen = false;
        for (size_t i = 0; i < count; i++)
            chosen |= is_given(&options[i]) && strcmp(options[i].name, ways[w].name) == 0;
        for (size_t i = 0; i < count && chosen; i++) {
            char word[64];
            (void)snprintf(word, sizeof(word), " %s ", options[i].name);
            if (!is_given(&options[i]) || strstr(ways[w].takes, word))
                continue;
            (void)lorica_cmd_usage(&lorica_cmd_train, "--%s does not go with --%s", options[i].name,
                                   ways[w].name);
            return false;
        }
    }
    return true;
}

/* Fills the words; how many others there were, or -1. */
static int take_words(struct train *t, int argc, char **argv) {
    const struct lorica_option options[] = {
        {.name = "base", .value = &t->job.base},
        {.name = "out", .value = &t->job.out},
        {.name = "eval", .value = &t->job.eval_path},
        {.name = "eval-split", .value = &t->eval_split},
        {.name = "eval-every", .value = &t->eval_every},
        {.name = "patience", .value = &t->patience},
        {.name = "pack", .flag = &t->job.pack},
        {.name = "loss", .value = &t->loss},
        {.name = "columns", .value = &t->job.columns[0]},
        {.name = "skip-bad", .flag = &t->job.skip_bad},
        {.name = "publish", .flag = &t->job.publish},
        {.name = "channel", .value = &t->job.channel},
        {.name = "message", .value = &t->job.message},
        {.name = "rank", .value = &t->rank},
        {.name = "alpha", .value = &t->alpha},
        {.name = "rslora", .flag = &t->job.spec.rslora},
        {.name = "dropout", .value = &t->dropout},
        {.name = "targets", .value = &t->targets},
        {.name = "lr", .value = &t->lr},
        {.name = "schedule", .value = &t->schedule},
        {.name = "warmup", .value = &t->warmup},
        {.name = "epochs", .value = &t->epochs},
        {.name = "steps", .value = &t->steps},
        {.name = "batch", .value = &t->batch},
        {.name = "accumulate", .value = &t->accumulate},
        {.name = "max-length", .value = &t->max_length},
        {.name = "max-grad-norm", .value = &t->max_grad_norm},
        {.name = "weight-decay", .value = &t->weight_decay},
        {.name = "beta1", .value = &t->beta1},
        {.name = "beta2", .value = &t->beta2},
        {.name = "eps", .value = &t->eps},
        {.name = "seed", .value = &t->seed},
        {.name = "threads", .value = &t->threads},
        {.name = "compute", .value = &t->compute},
        {.name = "optimizer", .value = &t->optimizer},
        {.name = "checkpoint-steps", .value = &t->checkpoint_steps},
        {.name = "resume", .flag = &t->job.resume},
        {.name = "checkpoint-activations", .flag = &t->job.options.recompute},
        {.name = "check", .flag = &t->check},
        {.name = "estimate", .value = &t->job.estimate},
        {.name = "json", .flag = &t->job.json},
        {.name = "full", .flag = &t->job.full},
        {.name = "replay", .value = &t->job.replay},
        {.name = "init", .value = &t->job.init},
        {.name = "log", .value = &t->job.log_path},
        {.name = "mlflow", .value = &t->job.mlflow},
        {.name = "mlflow-experiment", .value = &t->job.mlflow_experiment},
        {.name = "mlflow-ca", .value = &t->job.mlflow_ca},
        {.name = "mlflow-sync", .value = &t->mlflow_sync},
        LORICA_CLIENT_OPTIONS(t->job.where)};
    const int words =
        lorica_cmd_options(&lorica_cmd_train, argc, argv, options, COUNT(options), 0, WORDS_MAX);
    return words >= 0 && options_fit(options, COUNT(options)) ? words : -1;
}

static bool training_is_whole(const struct lorica_train_job *job, int words) {
    const bool apart = job->eval_path || job->eval_split > 0;
    const char *wrong = words < 2   ? "NAME and DATA are needed"
                        : job->init ? "--init goes with --replay"
                        : job->eval_path && job->eval_split > 0
                            ? "--eval and --eval-split exclude each other"
                        : !apart && (job->options.eval_every || job->options.patience)
                            ? "--eval-every and --patience go with --eval or --eval-split"
                        : job->json ? "--json goes with --check and --estimate"
                        : (job->channel || job->message) && !job->publish
                            ? "--channel and --message go with --publish"
                        : (job->mlflow_experiment || job->mlflow_ca) && !job->mlflow
                            ? "--mlflow-experiment and --mlflow-ca go with --mlflow"
                            : NULL;
    if (wrong)
        (void)lorica_cmd_usage(&lorica_cmd_train, "%s", wrong);
    return !wrong;
}

static bool parse_mlflow(const char *text) {
    struct lorica_mlflow_url url = {0};
    struct lorica_error err = {0};
    if (!text)
        return true;
    const int rc = lorica_mlflow_url_parse(text, &url, &err);
    if (rc != 0)
        (void)lorica_cmd_usage(&lorica_cmd_train, "--mlflow: %s", err.text);
    lorica_mlflow_url_finish(&url);
    return rc == 0;
}

/* The files of examples; --columns names columns of some of them. */
static bool take_data(struct lorica_train_job *job, char **paths, int count) {
    bool csv = job->eval_path && lorica_train_is_csv(job->eval_path);
    job->data_paths = (const char *const *)paths;
    job->data_count = (size_t)count;
    for (int i = 0; i < count; i++)
        csv |= lorica_train_is_csv(paths[i]);
    if (job->columns[0] && !csv)
        (void)lorica_cmd_usage(&lorica_cmd_train, "--columns goes with files named *.csv");
    return csv || !job->columns[0];
}

static int run_training(struct train *t, int words, char **argv) {
    if (!training_is_whole(&t->job, words) || !take_data(&t->job, argv + 1, words - 1))
        return LORICA_EXIT_USAGE;
    t->job.name = argv[0];
    if (!lorica_name_valid(t->job.name))
        return lorica_cmd_usage(&lorica_cmd_train,
                                "\"%s\" is no name for an adapter: a-z, 0-9, '.', '_' and '-', "
                                "beginning with a letter or digit, at most %d",
                                t->job.name, LORICA_NAME_MAX);
    return lorica_train_run(&t->job);
}

static int run_words(struct train *t, int words, char **argv) {
    struct lorica_train_job *job = &t->job;
    if (!parse_loop(t) || !parse_eval(t) || !parse_adamw(t) || !parse_spec(t) || !parse_data(t) ||
        !parse_compute(t) || !parse_keeping(t) || !parse_mlflow(job->mlflow))
        return LORICA_EXIT_USAGE;
    if (t->mlflow_sync)
        return words > 0 ? lorica_cmd_usage(&lorica_cmd_train,
                                            "--mlflow-sync takes a directory, and no NAME")
                         : lorica_mlflow_sync(t->mlflow_sync, job->mlflow, job->mlflow_ca);
    if (job->replay)
        return words > 0 || !job->init == !job->full || !job->out
                   ? lorica_cmd_usage(&lorica_cmd_train,
                                      "--replay takes --out, --init or --full, and no NAME")
                   : lorica_train_replay(job);
    if (job->estimate)
        return words > 0 ? lorica_cmd_usage(&lorica_cmd_train, "--estimate takes no NAME or DATA")
                         : lorica_train_estimate_job(job);
    if (!t->check)
        return run_training(t, words, argv);
    if (words < 1)
        return lorica_cmd_usage(&lorica_cmd_train, "--check takes DATA, and no NAME");
    return take_data(job, argv, words) ? lorica_train_check_job(job) : LORICA_EXIT_USAGE;
}

static int run(int argc, char **argv) {
    struct train t = {0};
    lorica_trainer_default_options(&t.job.options);
    const int words = take_words(&t, argc, argv);
    const int status = words < 0 ? LORICA_EXIT_USAGE : run_words(&t, words, argv);
    free(t.columns);
    return status;
}

const struct lorica_cmd lorica_cmd_train = {
    .name = "train",
    .synopsis = "NAME DATA... [--base BASE] [--eval FILE] [--out DIR] [--publish [--channel C]]",
    .summary = "train an adapter on questions and answers (QLoRA)",
    .help =
        "Learns a LoRA adapter against the 4-bit base with the loss on the answers "
        "only, and writes the two files that PEFT reads.\n"
        "DATA is one file or more. Each line is a JSON object: "
        "{\"messages\":[{\"role\",\"content\"}...]}, every answer in which is learnt (but one that "
        "says \"weight\":0); {\"prompt\",\"completion\"}, two strings or two lists of messages; or "
        "{\"text\"}, which is learnt whole. A file named *.csv (RFC 4180, UTF-8) holds questions "
        "and "
        "answers in two columns, with or without a header.\n"
        "--base BASE\ta base's name or digest, or a file; without it, the only base there is\n"
        "--eval FILE\texamples held apart: their loss is measured before, now and then, and after "
        "the last update; the adapter with the lowest is the result. It is stated in the manifest "
        "as that on the set of the file's name without .jsonl (adapter policy)\n"
        "--eval-split P\thold this share of DATA apart instead, chosen by the seed\n"
        "--eval-every N\tupdates between two measurements (an epoch's)\n"
        "--patience N\tend when so many measurements in a row brought no lower loss (never)\n"
        "--loss WHAT\twhat is learnt: the answer (the default) or all of each conversation\n"
        "--columns Q,A\tnames of the columns of questions and answers in CSV files (else question "
        "and answer, or what else is usual)\n"
        "--skip-bad\tleave out lines that are bad, and list them (else the first ends the run "
        "before it begins)\n"
        "--out DIR\twhere the adapter goes (else DIR/train/NAME in the data directory, but for the "
        "names files and jobs, which are the server's there)\n"
        "--publish\tpublish it to the server as the next version of NAME\n"
        "--channel C\tand point this channel to it\n"
        "--message TEXT\twhat the history says of it\n"
        "--rank N\trank of A and B (8)\n"
        "--alpha X\tscale is alpha / rank (2 * rank)\n"
        "--rslora\tscale is alpha / sqrt(rank)\n"
        "--dropout P\tdropout before A (0)\n"
        "--targets T\tall-linear (the default), or a list of q,k,v,o,gate,up,down\n"
        "--lr X\tlearning rate (0.001)\n"
        "--schedule S\tconstant, linear or cosine (the default)\n"
        "--warmup P\tshare of the updates over which the learning rate rises (0.03)\n"
        "--epochs X\tpasses over the data (3)\n"
        "--steps N\tupdates, instead of epochs\n"
        "--batch N\texamples at once (4)\n"
        "--pack\tlet each of them be as many whole examples as fit in --max-length: fewer, "
        "fuller batches; examples do not see each other\n"
        "--accumulate N\tbatches of one update; the gradient is the mean over all their labels "
        "(1)\n"
        "--max-length N\ttokens of an example; what is longer loses its end (512)\n"
        "--max-grad-norm X\tclip gradients to this norm (0.3); 0: do not\n"
        "--optimizer O\tadamw (the default), with moments in float32, or adamw-8bit, with moments "
        "of "
        "8 bits in blocks of 256; either lies in a file that the system may page out\n"
        "--weight-decay X\tAdamW's weight decay (0)\n"
        "--beta1 X\tAdamW's first decay rate (0.9)\n"
        "--beta2 X\tAdamW's second decay rate (0.999)\n"
        "--eps X\tAdamW's epsilon (1e-8)\n"
        "--seed N\tof the first A, the order and dropout (0)\n"
        "--threads N\tthreads (else one per core)\n"
        "--check\tinstead of training: look at DATA (and no NAME), and say how many examples there "
        "are, how long, which repeat or contradict others, which would be cut, which lines are "
        "bad, "
        "and what of the first example is in the loss; exit code 1 when a run would stop at it\n"
        "--estimate WHAT\tinstead of training: print what full fine-tuning, LoRA and QLoRA of a "
        "model would need in memory for --batch examples of --max-length tokens. WHAT is the "
        "config.json of any model of Llama's shape, a directory with one, or a base\n"
        "--json\tprint what --check or --estimate find as JSON\n"
        "--checkpoint-steps N\tupdates between checkpoints (100), which go to OUT; 0: only when "
        "stopped by SIGINT or SIGTERM\n"
        "--resume\tgo on from the checkpoint in OUT, with the same data and options, as if the run "
        "had not stopped; without one, begin\n"
        "--compute M\tfast: the base's products are those that serve, in int8; their gradients' "
        "and the adapter's products are of bfloat16 with sums in float32 where the processor has "
        "them, else of int8 and of float32; activations are kept as bfloat16 (the default); exact: "
        "float32 throughout (a replay's)\n"
        "--checkpoint-activations\tkeep only what each layer begins with and compute the rest "
        "again: about half the memory, an eighth slower\n"
        "--full\tto compare: train every weight in float32 instead of an adapter, and write a "
        "Hugging Face directory (else to DIR/full/NAME), which lorica base import reads; ends with "
        "a table of memory, file and losses beside those of the adapter in DIR/train/NAME. Takes "
        "16 "
        "bytes a parameter, and as many on the disk for a checkpoint; --lr is 0.00005 then. Import "
        "the base with --format f32 for it\n"
        "--replay TRACE\tinstead of training: feed given input_ids and labels [step, batch, time] "
        "in order with a constant learning rate, and write losses and grad_norms to "
        "OUT/replay.safetensors and the adapter after the last update\n"
        "--init DIR\tthe adapter that a replay begins with; with --full the replay trains the base "
        "itself\n"
        "--log FILE\twrite a line of JSON for each update: step, loss, lr, grad_norm, tokens, "
        "seconds, memory_mb, time_ms, and eval_loss where it was measured. A plot of the losses, "
        "loss.svg, is always left beside the adapter\n"
        "--mlflow URL\tlog the run to this MLflow tracking server while it goes on: parameters, "
        "metrics of each update, and at the end the adapter, plot, log and a few answers. Who asks "
        "is taken from MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or "
        "MLFLOW_TRACKING_TOKEN. While the server is away training goes on, and keeps the log in "
        "mlflow-*.jsonl beside the adapter\n"
        "--mlflow-experiment NAME\tthe experiment that the run belongs to (lorica); made where it "
        "is not there\n"
        "--mlflow-ca FILE\ttrust the authority in this PEM file "
        "(MLFLOW_TRACKING_SERVER_CERT_PATH, or the system's)\n"
        "--mlflow-sync DIR\tinstead of training: send what MLflow does not have yet of the runs "
        "that were trained into DIR; --mlflow names another server. May be repeated: nothing is "
        "logged twice\n" LORICA_CLIENT_HELP,
    .run = run,
};
