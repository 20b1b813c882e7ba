#!/bin/sh
# The image's `producer`, as the user who owns /out: what it writes there is theirs, to read and to delete.
#
# Compose starts it as root for that, with no other capability than to change owner and user; whoever
# starts it as somebody else (the image's own user is 10001) gets that user.
set -eu

if [ "$(id -u)" -eq 0 ]; then
  owner=$(stat -c %u:%g /out)
  # Root of the host, or a directory that the engine has just made: then not as root.
  if [ "${owner%:*}" -eq 0 ] && awk '$1 == 0 { exit $2 != 0 }' /proc/self/uid_map; then
    owner=10001:10001
    chown "$owner" /out
  fi
  # Where the engine has no root (its 0 is another number outside), 0 is the user who started it.
  if [ "${owner%:*}" -ne 0 ]; then
    exec setpriv --reuid="${owner%:*}" --regid="${owner#*:}" --clear-groups producer "$@"
  fi
fi
exec producer "$@"
