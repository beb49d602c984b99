//! redis over TCP, and mail: a protocol in which the server speaks first.

use mizzen_testkit::peer;

use super::{check, mesh, workloads};

fn installed() -> bool {
    peer("redis-server", "redis-server").is_some() && peer("redis-cli", "redis-tools").is_some()
}

/// `$1` is the host, `$2` the port.
const REDIS: &str = r#"
redis() { redis-cli -h "${host[0]}" -p "${host[1]}" "$@"; }
host=("$1" "$2"); n=$RANDOM$RANDOM
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
redis SET a$n hello; redis GET a$n
echo "pipelined: $(seq 20000 | sed "s/.*/INCR c$n/" | redis --pipe | tail -1), count $(redis GET c$n)"
head -c 2500000 /dev/urandom | od -An -v -tx1 | tr -d ' \n' | head -c 5000000 > $dir/big
echo "large: $(redis -x SET b$n < $dir/big) $(redis STRLEN b$n)"
echo "back: $(redis GET b$n | head -c 5000000 | cmp - $dir/big && echo same)"
redis BLPOP q$n 100 > $dir/popped &
until redis INFO clients | grep -q 'blocked_clients:[1-9]'; do :; done
redis LPUSH q$n item > $dir/out; wait $!
echo "waited for: $(tail -1 $dir/popped)"
redis --csv SUBSCRIBE ch$n > $dir/heard & sub=$!
until [ "$(redis PUBLISH ch$n news)" = 1 ]; do :; done
until grep -q news $dir/heard; do :; done; echo "heard: $(tail -1 $dir/heard | cut -d, -f3)"; kill $sub
seq 60 | xargs -P 30 -I {} redis-cli -h $1 -p $2 INCR p$n > $dir/out; echo "side by side: $(sort -n $dir/out | tail -1)"
redis DEL a$n b$n c$n p$n
"#;

#[test]
fn redis() {
    if !installed() {
        return;
    }
    let mesh = mesh();
    let answers = "
        OK
        hello
        pipelined: errors: 0, replies: 20000, count 20000
        large: OK 5000000
        back: same
        waited for: item
        heard: \"news\"
        side by side: 60
        4";
    for (host, port) in [("store", "6379"), ("store", "6380"), ("store.permissive", "6379"), ("store-plain.permissive", "6379")] {
        check(&mesh, REDIS, &[host, port], answers);
    }
}

#[test]
fn strict_takes_no_plain_redis() {
    if !installed() {
        return;
    }
    let mesh = mesh();
    check(&mesh, "redis-cli -h store-plain GET a 2>&1 | sed 's/Error: //'", &[], "Server closed the connection");
}

/// A mail of 1 MB, sent and fetched by curl. Nothing is sent before the server's greeting.
#[test]
fn the_server_speaks_first() {
    const SCRIPT: &str = r#"
        dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
        { echo 'Subject: hello'; echo; seq 150000; } | sed 's/$/\r/' > $dir/mail
        curl -sS -m 60 smtp://mail:25 --mail-from a@mesh.test --mail-rcpt b@mesh.test -T $dir/mail -v 2>&1 | tr -d '\r' | grep '^< [25]'"#;
    if peer("curl", "curl").is_none() {
        return;
    }
    let mesh = mesh();
    let answers = "
        < 220 mesh.test speaks first
        < 250 at your service
        < 250 so be it
        < 250 so be it
        < 250 taken: 150002 lines";
    check(&mesh, SCRIPT, &[], answers);
}

/// A client that has said all that it has to say may still listen: here the answer comes only then.
#[test]
fn half_closed() {
    workloads::client(&mesh(), "last", &["mail:2626"]);
}
