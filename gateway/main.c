/* SPDX-License-Identifier: MIT */
#include <stdlib.h>

#include "gateway/cmd/cmd.h"
#include "gateway/server/damage.h"
#include "registry/openssl.h"

int main(int argc, char **argv) {
    lorica_openssl_watch();
    lorica_damage_watch();
    /* argc is 0 when a careless caller gave no name: there is then nothing behind it either. */
    return lorica_cli_run(argc > 0 ? argc : 1, argv);
}
