/* SPDX-License-Identifier: MIT
 * Runs a fuzz target over the files of a directory, and over each of them cut short.
 * replay DIRECTORY: exit code 0 when all ran, 1 when there was nothing to run. */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

/* Each input has an allocation of just its size, so that a sanitizer sees one byte too far. */
static void run(const uint8_t *bytes, size_t len) {
    uint8_t *copy = malloc(len ? len : 1);
    if (!copy)
        exit(1);
    memcpy(copy, bytes, len);
    LLVMFuzzerTestOneInput(copy, len);
    free(copy);
}

static void replay(const char *path) {
    static uint8_t bytes[1 << 20];
    FILE *file = fopen(path, "rb");
    if (!file) {
        perror(path);
        exit(1);
    }
    const size_t len = fread(bytes, 1, sizeof(bytes), file);
    fclose(file);
    run(bytes, len);
    const size_t step = len / 128 + 1;
    for (size_t cut = 0; cut < len; cut += step)
        run(bytes, cut);
}

int main(int argc, char **argv) {
    DIR *dir = argc == 2 ? opendir(argv[1]) : NULL;
    if (!dir) {
        fprintf(stderr, "usage: replay DIRECTORY\n");
        return 1;
    }
    size_t count = 0;
    for (struct dirent *entry = readdir(dir); entry; entry = readdir(dir)) {
        char path[4096];
        if (entry->d_name[0] == '.')
            continue;
        snprintf(path, sizeof(path), "%s/%s", argv[1], entry->d_name);
        replay(path);
        count++;
    }
    closedir(dir);
    printf("%zu files\n", count);
    return count ? 0 : 1;
}
