"""URLs of a Redis that are not quite right. Each holds one of the secrets, or none."""

from __future__ import annotations

from typing import Final

# Parts of passwords: none of them may be seen, whatever happens.
SECRETS: Final = ("s3cr", "etpw", "geheim")

ODD_URLS: Final = (
    # Signs that mean something in a URL, within a password.
    "redis://:s3cr/etpw@127.0.0.1:1/0",
    "redis://:s3cr#etpw@127.0.0.1:1/0",
    "redis://:s3cr?etpw@127.0.0.1:1/0",
    "redis://me:s3cr/etpw@127.0.0.1:1/0",
    "redis://me:/etpw@127.0.0.1:1/0",
    "redis://:s3cr/et@pw@127.0.0.1:1/0",
    "redis://:s3cr?et@pw#x@127.0.0.1:1/0",
    "redis://:s3cr/etpw:x@127.0.0.1:1",
    "redis://:s3cr[etpw@[127.0.0.1:1/0",
    "redis://:s3cr etpw@127.0.0.1:1/0",
    "redis://:s3cr\tetpw@127.0.0.1:1/0",
    "redis://:s3cr\netpw@127.0.0.1:1/0",
    "redis://:s3cr\u00a0etpw@127.0.0.1:1/0",
    "redis://:s3cr%etpw@127.0.0.1:1/0",
    "redis://:s3cr%ffetpw@127.0.0.1:1/0",
    "redis://:s3cr\\/etpw@127.0.0.1:1/0",
    "redis://:s3cr://etpw@127.0.0.1:1/0",
    # The colon or the @ forgotten, or one too many.
    "redis://s3cretpw@127.0.0.1:1/0",
    "redis://s3cretpw:@127.0.0.1:1/0",
    "redis://:@127.0.0.1:1/0",
    "redis://:s3cretpw",
    "redis://:s3cretpw127.0.0.1:1/0",
    "redis://:s3cretpw@@127.0.0.1:x/0",
    "redis:s3cretpw@127.0.0.1:1/0",
    "redis:/:s3cretpw@127.0.0.1:1/0",
    "s3cretpw",
    "s3cretpw://127.0.0.1:1/0",
    ":s3cretpw@127.0.0.1:1",
    # In a parameter.
    "redis://127.0.0.1:1/0?password=s3cretpw",
    "redis://127.0.0.1:1/0?PassWord=s3cretpw",
    "redis://127.0.0.1:1/0?username=geheim&password=s3cretpw",
    "redis://127.0.0.1:1?s3cretpw",
    "redis://127.0.0.1:1/0?db=3&auth=s3cretpw",
    "redis://127.0.0.1:1/0?ssl_password=s3cretpw",
    "rediss://127.0.0.1:1/0?ssl_cert_reqs=s3cretpw",
    "unix:///run/redis.sock?password=s3cretpw",
    "redis+socket:///run/redis.sock?password=s3cretpw&db=0",
    "sentinel://127.0.0.1:1/0?master_name=m&password=s3cretpw",
    # More than one.
    "redis://:geheim@127.0.0.1:1/0;redis://:s3cretpw@127.0.0.2:1/0",
    "redis://:geheim@127.0.0.1:1/0,redis://:s3cretpw@127.0.0.2:1/0",
    "redis://127.0.0.1:1/0;redis://:s3cretpw@127.0.0.2:1/0",
    "sentinel://:geheim@127.0.0.1:1;sentinel://:s3cretpw@127.0.0.2:1/0?service=m",
    "redis://:s3cretpw@127.0.0.1:1,127.0.0.2:1/0",
    # Ports, databases and hosts.
    "redis://:s3cretpw@.:1/0",
    "redis://:s3cretpw@a..b:1/0",
    "redis://:s3cretpw@[....]:1/0",
    f"redis://:s3cretpw@{'x' * 64}.net:1/0",
    "sentinel://127.0.0.1:1,.b:1/0?service=m&sentinel_password=s3cretpw",
    "redis://:s3cretpw@127.0.0.1:63x9/0",
    "redis://:s3cretpw@127.0.0.1:0/0",
    "redis://:s3cretpw@127.0.0.1:99999/0",
    "redis://:s3cretpw@127.0.0.1:1/abc",
    "redis://:s3cretpw@127.0.0.1:1/0/",
    "redis://:s3cretpw@127.0.0.1:1/-1",
    "redis://:s3cretpw@127.0.0.1:1/2?db=3",
    "redis://:s3cretpw@127.0.0.1:1/?db=x",
    "redis://:s3cretpw@[::1/0",
    "redis://:s3cretpw@[",
    "redis://:s3cretpw@host name:1/0",
    # Others' schemes.
    "amqp://me:s3cretpw@127.0.0.1//",
    "http://me:s3cretpw@127.0.0.1/0",
    "redis+cluster://:s3cretpw@127.0.0.1:1/0",
    "rediscluster://:s3cretpw@127.0.0.1:1/0",
    "REDIS ://:s3cretpw@127.0.0.1:1/0",
    "memory://s3cretpw",
    # Sentinels and sockets.
    "sentinel://:s3cretpw@127.0.0.1:1/0",
    "sentinel://:s3cretpw@127.0.0.1:1,/0?service=m",
    "sentinel://:s3cr/etpw@127.0.0.1:1/0?service=m",
    "sentinel://127.0.0.1:1/0?service=m&sentinel_password=s3cr#etpw",
    "unix://:s3cr/etpw@/run/redis.sock",
    "unix://s3cretpw/run/redis.sock",
    "unix://:s3cretpw@",
)
