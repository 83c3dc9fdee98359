/* SPDX-License-Identifier: MIT
 * Telling the service manager how the server is (sd_notify's datagrams). */
#ifndef LORICA_GATEWAY_SERVER_NOTIFY_H
#define LORICA_GATEWAY_SERVER_NOTIFY_H

/** Sends a state such as "READY=1" to $NOTIFY_SOCKET; does nothing where there is none. A manager
 * that cannot be reached is no reason to stop: nothing is reported. */
void lorica_notify(const char *state);

#endif
