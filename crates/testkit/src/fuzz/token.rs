//! Tokens and key sets.

use std::{sync::LazyLock, time::Duration};

use mizzen_ir::{Jwks, Token};

/// A key of which nobody has the other half.
const NOBODY: &str = r#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"JqyLa13yiK4dWSbABQ3Czeyg2ithA-1RpL7ru0Va3ns"}]}"#;

/// A token that can be read is what it was read from, and is not signed by somebody who signs nothing; and a key set is never more than it may be.
pub fn token(data: &[u8]) {
    static NONE: LazyLock<Jwks> = LazyLock::new(|| Jwks::parse(NOBODY.as_bytes()).expect("a key set"));
    if let Ok(keys) = Jwks::parse(data) {
        assert!(data.len() <= 1 << 20, "a key set of {} bytes", data.len());
        assert_eq!(Jwks::parse(data).as_ref(), Ok(&keys));
    }
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(token) = Token::parse(text) else { return };
    let parts: Vec<&str> = text.split('.').collect();
    assert_eq!((parts.len(), parts[1]), (3, token.claims_text()), "three parts");
    assert!(NONE.check(&token).is_err(), "nobody has signed it");
    let far = Duration::from_secs(u64::MAX);
    assert!(token.end.is_none_or(|end| end >= u64::MAX - 60) || token.check_time(far, Duration::from_secs(60)).is_err(), "it has an end");
}
