/* SPDX-License-Identifier: MIT */
#include "gateway/server/uverr.h"

#include <uv.h>

int lorica_uv_fail(struct lorica_error *err, int uv_rc, const char *what) {
    int code = LORICA_EIO;
    if (uv_rc == UV_ENOMEM)
        code = LORICA_ENOMEM;
    else if (uv_rc == UV_ENOSPC)
        code = LORICA_ENOSPC;
    else if (uv_rc == UV_EADDRINUSE)
        code = LORICA_EBUSY;
    else if (uv_rc == UV_EINVAL || uv_rc == UV_EADDRNOTAVAIL)
        code = LORICA_EINVAL;
    else if (uv_rc == UV_ECANCELED)
        code = LORICA_ECANCELED;
    return lorica_fail(err, code, "%s: %s", what, uv_strerror(uv_rc));
}
