//! By which number hashing balancers choose, as Envoy makes it: the same request goes to the same endpoint through either.

use std::net::{IpAddr, SocketAddr};

use mizzen_http::Head;
use twox_hash::XxHash64;

use super::matchers::query_param;
use crate::config::{HashBy, HashCookie, HashPolicy};

/// A request's hash, and what is told to a client that came without its cookie.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestHash {
    /// The hash; none: there was nothing to be hashed.
    pub hash: Option<u64>,
    /// Values of `set-cookie`.
    pub cookies: Vec<String>,
}

/// The hash of a request, and the cookies that are made for it. `ends` are two addresses: the client's, by X-Forwarded-For where that is trusted,
/// and the one that it meant.
pub fn request_hash(policies: &[HashPolicy], head: &Head, ends: Option<[SocketAddr; 2]>) -> RequestHash {
    let mut all = RequestHash::default();
    for policy in policies {
        let new = match &policy.by {
            HashBy::Header(name, rewrite) => {
                let pseudo = if name.starts_with(':') { head.get(name) } else { None };
                let values = pseudo.into_iter().chain(head.get_all(name));
                match rewrite {
                    Some(rewrite) => of_values(values.map(|v| rewrite.apply_bytes(v))),
                    None => of_values(values),
                }
            }
            HashBy::Cookie(cookie) => match cookie_of(head, &cookie.name) {
                Some(value) => Some(hash_bytes(value)),
                None => made(cookie, ends).map(|(value, line)| {
                    all.cookies.push(line);
                    hash_bytes(value.as_bytes())
                }),
            },
            HashBy::SourceIp => ends.map(|[client, _]| source_hash(client.ip())),
            HashBy::Query(name) => query_param(head.path(), name).map(|value| hash_bytes(value.as_bytes())),
        };
        if let Some(new) = new {
            // Turned, so that two policies that see the same do not cancel each other.
            all.hash = Some(all.hash.unwrap_or(0).rotate_left(1) ^ new);
        }
        if policy.terminal && all.hash.is_some() {
            break;
        }
    }
    all
}

/// The hash of a client's address.
pub fn source_hash(source: IpAddr) -> u64 {
    let mut text = Text::default();
    // A text of at most 45 bytes always fits.
    let _ = std::fmt::write(&mut text, format_args!("{source}"));
    hash_bytes(text.bytes.get(..text.len).unwrap_or_default())
}

/// A short text in place.
struct Text {
    bytes: [u8; 64],
    len: usize,
}

impl Default for Text {
    fn default() -> Self {
        Text { bytes: [0; 64], len: 0 }
    }
}

impl std::fmt::Write for Text {
    fn write_str(&mut self, part: &str) -> std::fmt::Result {
        let room = self.bytes.get_mut(self.len..self.len + part.len()).ok_or(std::fmt::Error)?;
        room.copy_from_slice(part.as_bytes());
        self.len += part.len();
        Ok(())
    }
}

fn hash_bytes(bytes: &[u8]) -> u64 {
    XxHash64::oneshot(0, bytes)
}

/// Of a header's values, which count in any order.
fn of_values<T: AsRef<[u8]>>(mut values: impl Iterator<Item = T>) -> Option<u64> {
    let first = values.next()?;
    let Some(second) = values.next() else { return Some(hash_bytes(first.as_ref())) };
    let mut all: Vec<T> = [first, second].into_iter().chain(values).collect();
    all.sort_by(|a, b| a.as_ref().cmp(b.as_ref()));
    Some(all.iter().fold(0, |seed, value| XxHash64::oneshot(seed, value.as_ref())))
}

/// A cookie's value, which may be quoted; none if it is empty.
fn cookie_of<'h>(head: &'h Head, name: &'h str) -> Option<&'h [u8]> {
    let pair = head.get_all("cookie").flat_map(|line| line.split(|b| *b == b';')).find_map(|part| {
        let part = part.trim_ascii_start();
        let at = part.iter().position(|b| *b == b'=')?;
        let (key, value) = part.split_at(at);
        (key == name.as_bytes()).then(|| value.get(1..).unwrap_or_default())
    })?;
    let bare = pair.strip_prefix(b"\"").and_then(|v| v.strip_suffix(b"\"")).unwrap_or(pair);
    Some(bare).filter(|value| !value.is_empty())
}

/// A new cookie for a client: its value, and the line that tells it. The value is of the connection, so that all requests on it agree before the
/// first answer has come.
fn made(cookie: &HashCookie, ends: Option<[SocketAddr; 2]>) -> Option<(String, String)> {
    cookie.ttl?;
    let [client, meant] = ends?;
    let value = format!("{:016x}", hash_bytes(format!("{client}{meant}").as_bytes()));
    let line = format!("{}=\"{value}\"{}", cookie.name, cookie.attributes);
    Some((value, line))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn policy(by: HashBy) -> HashPolicy {
        HashPolicy { by, terminal: false }
    }

    fn header(name: &str) -> HashPolicy {
        policy(HashBy::Header(name.into(), None))
    }

    fn cookie(ttl: Option<u64>) -> HashPolicy {
        let ttl = ttl.map(std::time::Duration::from_secs);
        policy(HashBy::Cookie(Arc::new(HashCookie { name: "user".into(), ttl, attributes: "; Path=/; HttpOnly".into() })))
    }

    fn hash(policies: &[HashPolicy], headers: &[(&str, &str)]) -> RequestHash {
        let mut head = Head::request("GET", "http", "a", "/p?q=1&r=&q=2");
        for (name, value) in headers {
            head.append(name, value);
        }
        let ends = ["10.0.0.1:4000", "10.0.0.2:80"].map(|a| a.parse().unwrap());
        request_hash(policies, &head, Some(ends))
    }

    #[test]
    fn what_is_hashed() {
        let check = |policies: &[HashPolicy], headers: &[(&str, &str)], text: Option<&str>| {
            assert_eq!(hash(policies, headers).hash, text.map(|t| hash_bytes(t.as_bytes())), "{policies:?} {headers:?}");
        };
        check(&[], &[("a", "x")], None);
        check(&[header("a")], &[], None);
        check(&[header("a")], &[("a", "x")], Some("x"));
        check(&[header("a")], &[("a", "")], Some(""));
        check(&[header(":authority")], &[], Some("a"));
        check(&[cookie(None)], &[], None);
        check(&[cookie(None)], &[("cookie", "user=")], None);
        check(&[cookie(None)], &[("cookie", "a=1; user=7; user=8")], Some("7"));
        check(&[cookie(None)], &[("cookie", "users=1"), ("cookie", "b;  user=\"7 8\"")], Some("7 8"));
        check(&[cookie(Some(0))], &[("cookie", "user=7")], Some("7"));
        check(&[policy(HashBy::SourceIp)], &[], Some("10.0.0.1"));
        check(&[policy(HashBy::Query("q".into()))], &[], Some("1"));
        check(&[policy(HashBy::Query("r".into()))], &[], Some(""));
        check(&[policy(HashBy::Query("s".into()))], &[], None);
    }

    #[test]
    fn several_values() {
        let expected = XxHash64::oneshot(hash_bytes(b"x"), b"y");
        for order in [["x", "y"], ["y", "x"]] {
            assert_eq!(hash(&[header("a")], &order.map(|value| ("a", value))).hash, Some(expected), "{order:?}");
        }
    }

    #[test]
    fn several_policies() {
        let (x, y) = (hash_bytes(b"x"), hash_bytes(b"y"));
        let headers = [("a", "x"), ("b", "y")];
        assert_eq!(hash(&[header("a"), header("none"), header("b")], &headers).hash, Some(x.rotate_left(1) ^ y));
        let terminal = |name| HashPolicy { terminal: true, ..header(name) };
        assert_eq!(hash(&[terminal("a"), header("b")], &headers).hash, Some(x));
        assert_eq!(hash(&[terminal("none"), header("b")], &headers).hash, Some(y));
        assert_eq!(hash(&[header("a"), terminal("none"), header("b")], &headers).hash, Some(x), "there is a hash by then");
    }

    #[test]
    fn a_cookie_is_made_for_those_without() {
        let made = hash(&[cookie(Some(0))], &[]);
        let value = format!("{:016x}", hash_bytes(b"10.0.0.1:400010.0.0.2:80"));
        assert_eq!(made.cookies, [format!("user=\"{value}\"; Path=/; HttpOnly")]);
        assert_eq!(made.hash, Some(hash_bytes(value.as_bytes())));
        let next = hash(&[cookie(Some(0))], &[("cookie", &format!("user=\"{value}\""))]);
        assert_eq!((next.hash, next.cookies.len()), (made.hash, 0), "the next request goes where the first went");
        assert_eq!(hash(&[cookie(None)], &[]), RequestHash::default());
    }

    #[test]
    fn the_longest_address_fits() {
        let address: IpAddr = "1111:2222:3333:4444:5555:6666:7777:8888".parse().unwrap();
        assert_eq!(source_hash(address), hash_bytes(address.to_string().as_bytes()));
    }
}
