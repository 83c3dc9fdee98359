/* SPDX-License-Identifier: MIT
 * What lorica train does, once its command line is understood: train.c learns, train_replay.c
 * repeats a given trace; both open a session and leave an adapter's two files. train_check.c looks
 * at data, train_estimate.c reckons what a run would need. */
#ifndef LORICA_GATEWAY_TRAIN_TRAIN_H
#define LORICA_GATEWAY_TRAIN_TRAIN_H

#include "gateway/client/client_cmd.h"
#include "runtime/train/save.h"
#include "runtime/train/trainer.h"

/** A run as the command line asks for it. All text is borrowed from there. */
struct lorica_train_job {
    struct lorica_client_options where;
    const char *name;              /**< NULL for a replay */
    const char *const *data_paths; /**< files of examples */
    size_t data_count;
    const char *estimate; /**< config.json, directory or base to reckon for, or NULL */
    bool full;            /**< train every weight, not an adapter */
    bool json;            /**< of --check and --estimate */
    bool whole, skip_bad; /**< see struct lorica_train_data_options */
    const char *columns[2];
    const char *base;              /**< name, digest or file; NULL: the only one there is */
    const char *out;               /**< NULL: DIR/train/NAME */
    const char *eval_path;         /**< examples held apart; NULL: */
    double eval_split;             /**< this share of the data; 0: nothing */
    bool pack;                     /**< rows of max_length tokens hold several examples */
    bool publish;                  /**< through the server, when trained */
    const char *channel, *message; /**< of the publish; may be NULL */
    const char *log_path;          /**< file for a line of JSON each update; NULL: none */
    const char *mlflow;            /**< address of a tracking server; NULL: none */
    const char *mlflow_experiment, *mlflow_ca; /**< may be NULL */
    const char *replay, *init;                 /**< the trace and the adapter that it begins with */
    struct lorica_trainer_options options;
    struct lorica_train_spec spec;
    uint64_t checkpoint_steps; /**< updates between checkpoints; 0: only when stopped */
    bool resume;
    uint32_t max_length; /**< tokens of an example */
    unsigned threads;    /**< 0: one per core */
};

/** Trains, writes the adapter and its manifest, and publishes it if that was asked for. Prints what
 * it does; returns an enum lorica_exit. */
int lorica_train_run(const struct lorica_train_job *job);

/** Looks at the data and prints what it is like (--json: as JSON) and how the first example is
 * learnt. LORICA_EXIT_FAILED when a run would end before it begins. */
int lorica_train_check_job(const struct lorica_train_job *job);

/** Prints what training `estimate` would need, for each way of fine-tuning. */
int lorica_train_estimate_job(const struct lorica_train_job *job);

/** Feeds the trace and writes replay.safetensors and the adapter. Returns an enum lorica_exit. */
int lorica_train_replay(const struct lorica_train_job *job);

/* What both share (train_session.c). */

/** Largest file that is read or written, and largest text. */
#define LORICA_TRAIN_FILE_MAX ((size_t)2 << 30)
#define LORICA_TRAIN_TEXT_MAX ((size_t)1 << 20)

/** All that a run opens; zeroed before. */
struct lorica_train_session {
    struct lorica_base *base;
    struct lorica_pool *pool;
    struct lorica_adapter *adapter; /**< a reference, or NULL */
};

/** Opens base and pool. On failure the caller closes what was opened. */
int lorica_train_open(struct lorica_train_session *s, const struct lorica_train_job *job,
                      struct lorica_error *err) LORICA_MUSTCHECK;
void lorica_train_close(struct lorica_train_session *s);

/** Keeps other runs from writing to `dir` until *ret_fd is closed, or this process ends.
 * LORICA_EBUSY when one does. A file system without locks keeps nobody away. */
int lorica_train_dir_hold(const char *dir, int *ret_fd, struct lorica_error *err) LORICA_MUSTCHECK;

/** LORICA_ENOSPC where the disk of `dir` has less room than this. */
int lorica_train_check_room(const char *dir, uint64_t needed,
                            struct lorica_error *err) LORICA_MUSTCHECK;

/* Full fine-tuning (train_full.c). */

/** Fails before the work where the model could not be written to `dir`. */
int lorica_train_full_ready(const struct lorica_base *base, const char *dir,
                            struct lorica_error *err) LORICA_MUSTCHECK;
/** Whether the model in `dir` has its tokenizer with it. */
bool lorica_train_full_has_tokenizer(const char *dir);
/** Feeds the trace and writes the model to job->out; curves: losses, then gradient norms. */
int lorica_train_full_replay(struct lorica_train_session *s, const struct lorica_train_job *job,
                             const struct lorica_replay *trace, float *curves,
                             struct lorica_error *err) LORICA_MUSTCHECK;
/** Prints what the model in `dir` took and became, beside the adapter of the same name. */
void lorica_train_full_compare(const struct lorica_train_job *job, const char *dir,
                               const struct lorica_base *base,
                               const struct lorica_trainer_result *r);

/** Writes DIR/NAME whole or not at all. */
int lorica_train_write(const char *dir, const char *name, const struct lorica_buf *bytes,
                       struct lorica_error *err) LORICA_MUSTCHECK;

/** Writes the two files that PEFT reads into `dir`; `config` is the text of adapter_config.json. */
int lorica_train_write_adapter(const char *dir, const struct lorica_train_session *s,
                               const struct lorica_buf *config,
                               struct lorica_error *err) LORICA_MUSTCHECK;

/* Checkpoints of a run (train_checkpoint.c), in DIR/checkpoint.safetensors. */

/** Facts that a checkpoint is bound to. */
#define LORICA_TRAIN_FACTS_MAX 32

struct lorica_train_keeper {
    struct lorica_checkpointing checkpointing; /**< for the trainer's options */
    struct lorica_checkpoint_fact facts[LORICA_TRAIN_FACTS_MAX];
    char *path;
    bool resume;
};

/** LORICA_ECONFLICT when there is a checkpoint in `dir` that is not to be resumed. Before anything
 * of a run is written: what the run before left is not lost to one that does not begin. */
int lorica_train_keeper_ready(const char *dir, bool resume,
                              struct lorica_error *err) LORICA_MUSTCHECK;
/** Prepares to keep checkpoints of a run, which ends behind one when SIGINT or SIGTERM comes (the
 * second kills). A finished keeper is zeroed; so may it be when this fails. */
int lorica_train_keeper_init(struct lorica_train_keeper *keeper, const char *dir,
                             const struct lorica_trainer_options *options,
                             const struct lorica_train_job *job,
                             const struct lorica_train_session *s,
                             const struct lorica_train_data *data,
                             struct lorica_error *err) LORICA_MUSTCHECK;
void lorica_train_keeper_finish(struct lorica_train_keeper *keeper);
/** Removes the checkpoint of a run that is done. */
void lorica_train_keeper_clear(const struct lorica_train_keeper *keeper);

#endif
