/*
 * Wrappers on running processes, for C: libbrant_connect.a or libbrant_connect.so; brant_connect.dll on Windows.
 *
 * NAME is the path of a definition file, or a name that is looked for as NAME.wrap in $XDG_CONFIG_HOME/brant/wrappers and in
 * /etc/brant/wrappers, or on Windows in %APPDATA%\brant\wrappers and beside the library; for UnwrapProcess it is the wrapper's own name.
 *
 * Both return 0, or the number of a code that `brant explain` expands: 1111 is B-1111. UnwrapProcess returns 1 where the wrapper is
 * off but its implementation stays loaded, dormant.
 */
#ifndef BRANT_CONNECT_H
#define BRANT_CONNECT_H

#ifdef __cplusplus
extern "C" {
#endif

int WrapProcess(const char *name, int pid);
int UnwrapProcess(const char *name, int pid);

/*
 * A line for each function that the calling thread's calls put a wrapper before, take one off from, or could not, goes to the end of the
 * file at PATH. With a null pointer, and at the beginning, the variable BRANT_CONNECT_LOG names the file; without it there is no log.
 */
int ConnectorLog(const char *path);

/* The words of the calling thread's last failure. */
const char *ConnectorError(void);

#ifdef __cplusplus
}
#endif

#endif
