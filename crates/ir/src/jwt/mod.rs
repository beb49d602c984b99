//! JSON Web Tokens and the keys that sign them: read under limits, without trust.

mod json;
mod jwks;
mod token;

pub use jwks::{BadJwks, Jwks};
pub use token::{Token, TokenFault};

#[cfg(test)]
pub(crate) use jwks::CHECKS;

pub(crate) use json::{text as json_text, whole};
