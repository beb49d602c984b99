//! TLS of the workloads' own, which the mesh carries and does not open: OpenSSL on both sides, and curl.

use mizzen_testkit::peer;

use super::{check, mesh};

const SCRIPT: &str = r#"
    dir=$(mktemp -d); trap 'rm -rf "$dir"' EXIT
    openssl s_client -connect $1:$2 -servername secret.test </dev/null 2>$dir/errors | openssl x509 -noout -subject -issuer
    openssl s_client -connect $1:$2 -servername secret.test -showcerts </dev/null 2>>$dir/errors | sed -n '/BEGIN/,/END/p' > $dir/pem
    curl -sS -m 30 --cacert $dir/pem --connect-to secret.test:443:$1:$2 https://secret.test/ -o /dev/null -w '%{http_code} %{ssl_verify_result}\n'
    printf 'GET / HTTP/1.0\r\n\r\n' | openssl s_client -connect $1:$2 -quiet -ign_eof 2>>$dir/errors | grep -c 'HTTP/1.0 200'"#;

#[test]
fn passes_through() {
    if peer("openssl", "openssl").is_none() || peer("curl", "curl").is_none() {
        return;
    }
    let mesh = mesh();
    for host in ["secret", "secret.permissive", "secret-plain.permissive"] {
        for port in ["443", "444"] {
            let seen = "subject=CN = secret.test\nissuer=CN = secret.test\n200 0\n1";
            check(&mesh, SCRIPT, &[host, port], seen);
        }
    }
}

/// Under STRICT, TLS that is not the mesh's is no more welcome than plain text.
#[test]
fn strict_takes_no_other_tls() {
    if peer("openssl", "openssl").is_none() {
        return;
    }
    let mesh = mesh();
    for port in ["443", "444"] {
        let script = "openssl s_client -connect secret-plain:$1 </dev/null 2>/dev/null | grep -c secret.test; true";
        check(&mesh, script, &[port], "0");
    }
}
