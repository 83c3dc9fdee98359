/* SPDX-License-Identifier: MIT
 * A fine-tuning job: what was asked for, how far it has come, what came of it; and job.json, which
 * is all of it.
 *
 *   QUEUED --> RUNNING --> PUBLISHING --> SUCCEEDED
 *     ^ |        | |          |   |
 *     | |        | +----------|-> FAILED
 *     | v        v            |
 *    PAUSED <----+------------+    (QUEUED, RUNNING and PAUSED may also become CANCELLED)
 *
 * PUBLISHING becomes PAUSED, and RUNNING without being asked to, when the disk is full. RUNNING
 * becomes QUEUED when the trainer breaks off further on than the one before it.
 *
 * RUNNING and PUBLISHING become QUEUED when the server starts: the trainer's checkpoint, or what it
 * has made, is where the job goes on. */
#ifndef LORICA_GATEWAY_JOBS_JOB_H
#define LORICA_GATEWAY_JOBS_JOB_H

#include <stdbool.h>
#include <stdint.h>

#include "gateway/jobs/training_files.h"
#include "proto/buf.h"
#include "proto/json.h"
#include "registry/digest.h"

/** "ftjob-" and 24 hex digits, NUL-terminated. */
#define LORICA_JOB_ID 31
#define LORICA_JOB_ID_PREFIX "ftjob-"
/** Largest job.json. */
#define LORICA_JOB_TEXT_MAX ((size_t)256 << 10)
/** OpenAI's bounds of metadata, in pairs and characters. */
#define LORICA_JOB_METADATA_PAIRS 16
#define LORICA_JOB_METADATA_KEY 64
#define LORICA_JOB_METADATA_VALUE 512

enum lorica_job_state {
    LORICA_JOB_QUEUED,     /**< waits for the trainer */
    LORICA_JOB_RUNNING,    /**< has it */
    LORICA_JOB_PUBLISHING, /**< is trained; cannot be stopped any more */
    LORICA_JOB_PAUSED,     /**< waits for its owner */
    LORICA_JOB_SUCCEEDED,  /**< is published */
    LORICA_JOB_FAILED,     /**< `error` says why */
    LORICA_JOB_CANCELLED,
    LORICA_JOB_STATE_COUNT
};

/** Name in job.json and in metrics; PUBLISHING has one of its own. */
const char *lorica_job_state_name(enum lorica_job_state state);
/** Name in the API, which knows no publishing. */
const char *lorica_job_status(enum lorica_job_state state);
/** The table of transitions. */
bool lorica_job_may_become(enum lorica_job_state from, enum lorica_job_state to);
/** True for the last three: a job stays what it is. */
bool lorica_job_is_over(enum lorica_job_state state);

/** A file of examples, which the job's directory holds by a name of its own. */
struct lorica_job_file {
    char id[LORICA_TRAINING_FILE_ID]; /**< "": there is none */
    char filename[LORICA_TRAINING_FILENAME_MAX + 1];
    struct lorica_digest digest;
};

/** What the trainer is told. */
struct lorica_job_recipe {
    int64_t epochs, batch, seed, rank, max_length;
    int64_t threads; /**< kept, so that another setting does not change what is learnt */
    double lr_multiplier, alpha;
    int64_t steps; /**< updates that come of it */
};

struct lorica_job {
    char id[LORICA_JOB_ID];
    char owner[LORICA_NAME_MAX + 1];  /**< name of the key that made it */
    char suffix[LORICA_NAME_MAX + 1]; /**< name of the adapter */
    char model[256];                  /**< the base's name */
    struct lorica_digest base;
    struct lorica_job_file training, validation;
    struct lorica_job_recipe recipe;
    char *metadata; /**< text of a JSON object of strings, owned; NULL: none */
    enum lorica_job_state state;
    int64_t created_ms, finished_ms; /**< Unix time; 0: not yet */
    struct {
        char code[64], param[32], message[600];
    } error; /**< of a failed one */
    struct {
        char model[LORICA_NAME_MAX + 32];   /**< "cardiology@4" */
        char file[LORICA_TRAINING_FILE_ID]; /**< of the figures of its updates; "": there is none */
        int64_t tokens, step;               /**< trained; update of the adapter */
        double train_loss, valid_loss;      /**< NaN: not measured */
    } result;                               /**< of a succeeded one */
};

/** Frees what it owns. A zeroed one is accepted. */
void lorica_job_finish(struct lorica_job *job);

/** Appends job.json. */
int lorica_job_encode(const struct lorica_job *job, struct lorica_buf *out) LORICA_MUSTCHECK;
/** Reads it. LORICA_EFORMAT for what encode does not write. On success the caller finishes *ret. */
int lorica_job_decode(const char *text, size_t len, struct lorica_job *ret,
                      struct lorica_error *err) LORICA_MUSTCHECK;

/** True for text of the form of an id. */
bool lorica_job_id_valid(const char *text);
/** Whether this is an object of strings within OpenAI's bounds; `what` then says nothing, else what
 * is wrong. */
bool lorica_job_metadata_valid(const struct lorica_json *object, const char **what);

/** Writes the API's object "fine_tuning.job". `finish_ms`: when it is expected to end; 0: unknown.
 */
void lorica_job_write(const struct lorica_job *job, int64_t finish_ms, struct lorica_jsonw *w);

#endif
