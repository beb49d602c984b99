//! curl and nginx, over HTTP/1.1 and HTTP/2, through both sidecars and in every combination of versions.

use std::process::Command;

use mizzen_testkit::{Options, Output, is_root, peer};

use super::{check, compare, mesh, start_with};

/// Files up and down, interim answers, answers without bodies. `$1` is the base, the rest are options of curl.
const CALLS: &str = r#"
base=$1; shift
curl() { command curl -sS -m 60 --expect100-timeout 40 "${options[@]}" "$@"; }
options=("$@")
dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
file=$base/files/$RANDOM$RANDOM
head -c 10000000 /dev/urandom > $dir/big
sum=$(sha256sum < $dir/big)
same() { [ "$(sha256sum)" = "$sum" ] && echo same || echo different; }

curl $base/hello
echo "up: $(curl -H Expect: -T $dir/big -o $dir/out -w '%{http_code}' $file)"
echo "down: $(curl $file | same)"
echo "up in chunks: $(cat $dir/big | curl -H Expect: -H 'transfer-encoding: chunked' -T - -o $dir/out -w '%{http_code}' $file)"
echo "down: $(curl $file | same)"
echo "slowly: $(curl --limit-rate 4M $file | same)"
echo "a part: $(curl -r 100-199 $file | wc -c)"
echo "HEAD: $(curl -I $file -D - -o $dir/out -w '%{size_download} bytes of\n' | tr -d '\r' | sed -n 's/^content-length: //p; /bytes of/p' | tac | paste -sd' ')"
echo "204: $(curl -D - $base/no-content -w 'body %{size_download}' | tr -d '\r' | sed -n 's/^HTTP[^ ]* \([0-9]*\).*/\1/p; /^content-length/p; /^body/p' | paste -sd' ')"
etag=$(curl -I $file | tr -d '\r' | sed -n 's/^etag: //p')
echo "304: $(curl -H "if-none-match: $etag" -D - $file -o $dir/out -w 'body %{size_download}' | sed -n 's/^HTTP[^ ]* \([0-9]*\).*/\1/p; /^body/p' | paste -sd' ')"
echo "redirected: $(curl -D - -o $dir/out $base/moved | tr -d '\r' | sed -n 's/^location: //p')"
echo "no file: $(curl -o $dir/out -w '%{http_code}' $base/files/none)"
echo "unusual: $(curl -w '%{http_code}' $base/teapot | paste -sd' ')"
echo "gone: $(curl -X DELETE -o $dir/out -w '%{http_code}' $file)"
"#;

const ANSWERS: &str = "
    up: 201
    down: same
    up in chunks: 204
    down: same
    slowly: same
    a part: 100
    HEAD: 0 bytes of 10000000
    204: 204 body 0
    304: 304 body 0
    redirected: /hello
    no file: 404
    unusual: short and stout 418
    gone: 204";

/// (the port of nginx' service, an option of curl, the version that nginx sees). Two programs that speak different versions are
/// understood, where a port's protocol is declared; where it is not, a client gets what it speaks.
const WAYS: [(&str, &str, &str); 6] = [
    ("80", "--http1.1", "1.1"),
    ("80", "--http2-prior-knowledge", "1.1"),
    ("81", "--http1.1", "2.0"),
    ("81", "--http2-prior-knowledge", "2.0"),
    ("82", "--http1.1", "1.1"),
    ("83", "--http2-prior-knowledge", "2.0"),
];

fn installed() -> bool {
    peer("curl", "curl").is_some() && peer("nginx", "nginx").is_some()
}

fn calls(host: &str) {
    if !installed() {
        return;
    }
    let mesh = mesh();
    for (port, option, version) in WAYS {
        check(&mesh, CALLS, &[&format!("http://{host}:{port}"), option], &format!("hello over HTTP/{version}{ANSWERS}"));
    }
}

#[test]
fn files_over_mutual_tls() {
    calls("web");
}

#[test]
fn files_where_plain_text_is_taken_too() {
    calls("web.permissive");
}

#[test]
fn files_in_plain_text() {
    calls("web-plain.permissive");
}

/// From outside, where curl and the Gateway share the host's loopback.
#[test]
fn files_through_the_gateway() {
    if !installed() {
        return;
    }
    let mesh = mesh();
    for option in ["--http1.1", "--http2-prior-knowledge"] {
        let output = Command::new("bash").args(["-c", CALLS, "bash", &mesh.address(), option]).output().expect("start bash");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let output = Output { code: output.status.code().unwrap_or(-1), out: text(&output.stdout), err: text(&output.stderr) };
        compare(&mesh, option, &output, &format!("hello over HTTP/1.1{ANSWERS}"));
    }
}

/// Without any privilege, in a mesh of its own.
#[test]
fn files_of_an_ordinary_user() {
    if !installed() || !is_root() {
        return;
    }
    let mesh = start_with(Options { as_nobody: true, ..Options::default() });
    for (port, option, version) in WAYS {
        check(&mesh, CALLS, &[&format!("http://web:{port}"), option], &format!("hello over HTTP/{version}{ANSWERS}"));
    }
}

/// Who the server's sidecar says is calling.
#[test]
fn callers_are_known_by_mutual_tls_only() {
    if !installed() {
        return;
    }
    let mesh = mesh();
    let script = "curl -sS -m 20 -w '%{http_code}\n' http://$1/caller | sed 's/By=.*Subject=\"\";//'";
    let visitor = "URI=spiffe://cluster.local/ns/strict/sa/visitor\n200";
    check(&mesh, script, &["web"], visitor);
    check(&mesh, script, &["web.permissive"], visitor);
    check(&mesh, script, &["web-plain.permissive"], "\n200");
    check(&mesh, "curl -sS -m 20 -o /dev/null -w '%{http_code}\n' http://$1/caller", &["web-plain"], "503");
}

/// `Expect: 100-continue` waits for the server's word (nginx gives it over HTTP/1.1 only), and a refusal comes without the body.
#[test]
fn expectations() {
    const SCRIPT: &str = r#"
        file=$(mktemp); trap 'rm -f $file' EXIT; head -c 3000000 /dev/zero > $file
        curl -sS -m 60 $2 --expect100-timeout 50 -H 'Expect: 100-continue' -T $file -D - -o /dev/null -w 'sent %{size_upload}\n' \
            --request-target $3 http://$1/x | tr -d '\r' | sed -n 's/^HTTP[^ ]* \([0-9]*\).*/\1/p; /^sent/p' | paste -sd' '"#;
    if !installed() {
        return;
    }
    let mesh = mesh();
    for host in ["web", "web-plain.permissive"] {
        check(&mesh, SCRIPT, &[host, "--http1.1", "/files/expected.1"], "100 201 sent 3000000");
        check(&mesh, SCRIPT, &[host, "--http2-prior-knowledge", "/files/expected.2"], "100 201 sent 3000000");
        // A folder cannot be uploaded.
        check(&mesh, SCRIPT, &[host, "--http1.1", "/files/"], "409 sent 0");
    }
}

/// An answer before the end of an upload reaches the client, and stops it.
#[test]
fn early_answers() {
    const SCRIPT: &str = r#"
        file=$(mktemp); trap 'rm -f $file' EXIT; head -c 20000000 /dev/zero > $file
        for n in 1 2 3 4 5; do
            curl -sS -m 60 --http1.1 -H Expect: -T $file -o /dev/null -w '%{http_code} ' --request-target /files/ http://web:$1/x
        done"#;
    if !installed() {
        return;
    }
    let mesh = mesh();
    for port in ["80", "81", "82"] {
        check(&mesh, SCRIPT, &[port], "409 409 409 409 409");
    }
}

/// A client's connection is used again.
#[test]
fn connections_are_kept() {
    const SCRIPT: &str = "curl -sS -m 60 --http1.1 $1 $1 $1 $1 -o /dev/null -o /dev/null -o /dev/null -o /dev/null -w '%{num_connects}'";
    if !installed() {
        return;
    }
    let mesh = mesh();
    for port in ["80", "81", "82"] {
        check(&mesh, SCRIPT, &[&format!("http://web:{port}/hello")], "1000");
    }
}

#[test]
fn many_at_once() {
    const H1: &str = r#"curl -sS -m 100 --http1.1 -Z --parallel-max 50 --no-progress-meter "$1/hello?[1-500]" | sort | uniq -c"#;
    // (This curl cannot send a second request on a connection of prior knowledge.)
    const H2: &str = r#"seq 200 | xargs -P 40 -I N curl -sS -m 100 --http2-prior-knowledge "$1/hello?N" | sort | uniq -c"#;
    const LARGE: &str = r#"
        file=$(mktemp); trap 'rm -f $file' EXIT; head -c 4000000 /dev/urandom > $file
        export file base=$1
        one() {
            version=$([ $(($1 % 2)) = 0 ] && echo --http1.1 || echo --http2-prior-knowledge)
            curl -sS -m 100 $version -o /dev/null -T $file $base/files/many.$1
            curl -sS -m 100 $version $base/files/many.$1 | sha256sum
        }
        export -f one
        { seq 24 | xargs -P 12 -I N bash -c 'one N'; sha256sum < $file; } | uniq -c | awk '{ print $1 }'"#;
    if !installed() {
        return;
    }
    let mesh = mesh();
    for (port, version) in [("80", "1.1"), ("81", "2.0")] {
        let base = format!("http://web:{port}");
        check(&mesh, H1, &[&base], &format!("500 hello over HTTP/{version}"));
        check(&mesh, H2, &[&base], &format!("200 hello over HTTP/{version}"));
        check(&mesh, LARGE, &[&base], "25");
    }
}

#[test]
fn trailers() {
    const SCRIPT: &str = "curl -sS -m 20 $2 -D - $1/trailing | tr -d '\\r' | grep -E '^(before|x-after)'";
    if !installed() {
        return;
    }
    let mesh = mesh();
    for (port, option, _) in WAYS {
        // (This nginx sends them over HTTP/1.1 only.)
        let sent = ["80", "82"].contains(&port);
        check(&mesh, SCRIPT, &[&format!("http://web:{port}"), option], if sent { "before\nx-after: yes" } else { "before" });
    }
}

/// A server that ends its connections after a few requests costs no request.
#[test]
fn connections_end_in_good_order() {
    const SCRIPT: &str = r#"curl -sS -m 100 --http1.1 -Z --parallel-max 20 --no-progress-meter "$1/hello?[1-500]" | sort | uniq -c"#;
    if !installed() {
        return;
    }
    let mesh = mesh();
    for (port, version) in [("84", "1.1"), ("85", "2.0")] {
        check(&mesh, SCRIPT, &[&format!("http://web:{port}")], &format!("500 hello over HTTP/{version}"));
    }
}

/// Clients that go away in the middle of a body leave nothing behind that harms others.
#[test]
fn clients_that_go_away() {
    const SCRIPT: &str = r#"
        file=$(mktemp); trap 'rm -f $file' EXIT; head -c 8000000 /dev/zero > $file
        curl -sS -m 60 -o /dev/null -T $file $1/files/left
        for version in --http1.1 --http2-prior-knowledge; do
            for n in 1 2 3 4 5 6 7 8; do
                curl -sS -m 0.5 --limit-rate 2M $version -o /dev/null $1/files/left &
                curl -sS -m 0.5 --limit-rate 2M $version -o /dev/null -T $file $1/files/left.$n &
            done 2>/dev/null
            wait
            curl -sS -m 60 $version $1/files/left | cmp - $file && echo whole
            curl -sS -m 60 $version -o /dev/null -w '%{http_code}\n' -T $file $1/files/$RANDOM$RANDOM
        done"#;
    if !installed() {
        return;
    }
    let mesh = mesh();
    for port in ["80", "81"] {
        check(&mesh, SCRIPT, &[&format!("http://web:{port}")], "whole\n201\nwhole\n201");
    }
}

/// Requests that are sent before the last one was answered.
#[test]
fn pipelined() {
    const SCRIPT: &str = r#"
        exec 3<>/dev/tcp/web/$1
        for n in $(seq 50); do printf 'GET /hello?%s HTTP/1.1\r\nHost: web\r\n\r\n' $n; done >&3
        printf 'GET /hello HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n' >&3
        tr -d '\r' <&3 | grep -cE '^hello over|^HTTP/1.1 200'"#;
    if !installed() {
        return;
    }
    let mesh = mesh();
    for port in ["80", "81", "82"] {
        check(&mesh, SCRIPT, &[port], "102");
    }
}

/// HTTP/1.0 is not taken for HTTP, as in Istio; where no protocol is declared, it passes as bytes.
#[test]
fn the_old_version() {
    if !installed() {
        return;
    }
    let script = "curl -sS -m 20 --http1.0 http://web:82/hello -w '%{http_code}'";
    check(&mesh(), script, &[], "hello over HTTP/1.0\n200");
}
