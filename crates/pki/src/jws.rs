//! Signatures of tokens: public keys as JSON Web Keys give them, and whether one of them made a signature.
//!
//! A key is good for the algorithms of its own type alone: there is no way to check a signature by a shared secret, nor none at all.

use aws_lc_rs::digest;
use aws_lc_rs::signature::{self, EcdsaVerificationAlgorithm, ParsedPublicKey, RsaParameters, RsaPublicKeyComponents};

/// An algorithm of asymmetric signatures, by its name in JSON Web Signatures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum JwsAlgorithm {
    /// RSA PKCS#1 v1.5 with SHA-256.
    Rs256,
    /// RSA PKCS#1 v1.5 with SHA-384.
    Rs384,
    /// RSA PKCS#1 v1.5 with SHA-512.
    Rs512,
    /// RSA PSS with SHA-256.
    Ps256,
    /// RSA PSS with SHA-384.
    Ps384,
    /// RSA PSS with SHA-512.
    Ps512,
    /// ECDSA on P-256 with SHA-256.
    Es256,
    /// ECDSA on P-384 with SHA-384.
    Es384,
    /// ECDSA on P-521 with SHA-512.
    Es512,
    /// Ed25519.
    EdDsa,
}

const NAMES: [(&str, JwsAlgorithm); 10] = [
    ("RS256", JwsAlgorithm::Rs256),
    ("RS384", JwsAlgorithm::Rs384),
    ("RS512", JwsAlgorithm::Rs512),
    ("PS256", JwsAlgorithm::Ps256),
    ("PS384", JwsAlgorithm::Ps384),
    ("PS512", JwsAlgorithm::Ps512),
    ("ES256", JwsAlgorithm::Es256),
    ("ES384", JwsAlgorithm::Es384),
    ("ES512", JwsAlgorithm::Es512),
    ("EdDSA", JwsAlgorithm::EdDsa),
];

impl JwsAlgorithm {
    /// The algorithm of this name; case matters. `none` and those of shared secrets are not known.
    pub fn named(name: &str) -> Option<JwsAlgorithm> {
        NAMES.iter().find(|(known, _)| *known == name).map(|(_, algorithm)| *algorithm)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        NAMES.iter().find(|(_, known)| *known == self).map_or("", |(name, _)| name)
    }

    fn rsa(self) -> Option<&'static RsaParameters> {
        Some(match self {
            JwsAlgorithm::Rs256 => &signature::RSA_PKCS1_2048_8192_SHA256,
            JwsAlgorithm::Rs384 => &signature::RSA_PKCS1_2048_8192_SHA384,
            JwsAlgorithm::Rs512 => &signature::RSA_PKCS1_2048_8192_SHA512,
            JwsAlgorithm::Ps256 => &signature::RSA_PSS_2048_8192_SHA256,
            JwsAlgorithm::Ps384 => &signature::RSA_PSS_2048_8192_SHA384,
            JwsAlgorithm::Ps512 => &signature::RSA_PSS_2048_8192_SHA512,
            _ => return None,
        })
    }
}

/// A curve of ECDSA.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JwsCurve {
    /// P-256, for ES256.
    P256,
    /// P-384, for ES384.
    P384,
    /// P-521, for ES512.
    P521,
}

impl JwsCurve {
    /// The curve of this name (`crv`).
    pub fn named(name: &str) -> Option<JwsCurve> {
        Some(match name {
            "P-256" => JwsCurve::P256,
            "P-384" => JwsCurve::P384,
            "P-521" => JwsCurve::P521,
            _ => return None,
        })
    }

    /// The length of a coordinate in bytes, and the algorithms.
    fn parts(self) -> (usize, JwsAlgorithm, &'static EcdsaVerificationAlgorithm) {
        match self {
            JwsCurve::P256 => (32, JwsAlgorithm::Es256, &signature::ECDSA_P256_SHA256_FIXED),
            JwsCurve::P384 => (48, JwsAlgorithm::Es384, &signature::ECDSA_P384_SHA384_FIXED),
            JwsCurve::P521 => (66, JwsAlgorithm::Es512, &signature::ECDSA_P521_SHA512_FIXED),
        }
    }
}

/// A public key of which signatures are checked.
#[derive(Debug)]
pub struct JwsKey(Kind);

#[derive(Debug)]
enum Kind {
    Rsa(RsaPublicKeyComponents<Vec<u8>>),
    Ec(JwsAlgorithm, ParsedPublicKey),
    Ed(ParsedPublicKey),
}

impl JwsKey {
    /// An RSA key of 2048 to 8192 bits, by modulus and exponent, big endian.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn rsa(n: &[u8], e: &[u8]) -> Result<JwsKey, &'static str> {
        let strip = |bytes: &[u8]| bytes.iter().position(|b| *b != 0).and_then(|at| bytes.get(at..)).unwrap_or_default().to_vec();
        let (n, e) = (strip(n), strip(e));
        let bits = (n.len() * 8).saturating_sub(n.first().map_or(0, |b| b.leading_zeros() as usize));
        if !(2048..=8192).contains(&bits) {
            return Err("its modulus has not from 2048 to 8192 bits");
        }
        // One with the exponent 1 would sign everything.
        let odd = e.last().is_some_and(|b| b % 2 == 1) && n.last().is_some_and(|b| b % 2 == 1);
        if !odd || e == [1] || e.len() > 4 {
            return Err("its exponent is not an odd number from 3 to 2^32, or its modulus is even");
        }
        Ok(JwsKey(Kind::Rsa(RsaPublicKeyComponents { n, e })))
    }

    /// A key of ECDSA by its point.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn ec(curve: JwsCurve, x: &[u8], y: &[u8]) -> Result<JwsKey, &'static str> {
        let (length, algorithm, verifier) = curve.parts();
        let mut point = vec![4];
        for part in [x, y] {
            let Some(missing) = length.checked_sub(part.len()) else { return Err("a coordinate is too long for its curve") };
            point.resize(point.len() + missing, 0);
            point.extend_from_slice(part);
        }
        let key = ParsedPublicKey::new(verifier, point).map_err(|_| "its point is not on its curve")?;
        Ok(JwsKey(Kind::Ec(algorithm, key)))
    }

    /// A key of Ed25519.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn ed25519(x: &[u8]) -> Result<JwsKey, &'static str> {
        if x.len() != 32 {
            return Err("it has not 32 bytes");
        }
        let key = ParsedPublicKey::new(&signature::ED25519, x).map_err(|_| "it is no point of its curve")?;
        Ok(JwsKey(Kind::Ed(key)))
    }

    /// Whether signatures by this algorithm can be made with the key.
    pub fn is_for(&self, algorithm: JwsAlgorithm) -> bool {
        match &self.0 {
            Kind::Rsa(_) => algorithm.rsa().is_some(),
            Kind::Ec(own, _) => *own == algorithm,
            Kind::Ed(_) => algorithm == JwsAlgorithm::EdDsa,
        }
    }

    /// Whether the key's owner has signed these bytes by this algorithm.
    pub fn verifies(&self, algorithm: JwsAlgorithm, bytes: &[u8], signature: &[u8]) -> bool {
        match &self.0 {
            Kind::Rsa(key) => algorithm.rsa().is_some_and(|parameters| key.verify(parameters, bytes, signature).is_ok()),
            Kind::Ec(own, key) => *own == algorithm && key.verify_sig(bytes, signature).is_ok(),
            Kind::Ed(key) => algorithm == JwsAlgorithm::EdDsa && key.verify_sig(bytes, signature).is_ok(),
        }
    }
}

/// SHA-256 of some bytes in parts.
pub fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    let mut context = digest::Context::new(&digest::SHA256);
    for part in parts {
        context.update(part);
    }
    let mut out = [0; 32];
    out.iter_mut().zip(context.finish().as_ref()).for_each(|(to, from)| *to = *from);
    out
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::rsa::KeySize;
    use aws_lc_rs::signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, ECDSA_P521_SHA512_FIXED_SIGNING, EcdsaKeyPair,
        EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RSA_PSS_SHA512, RsaKeyPair,
    };

    use super::*;

    const ALL: [JwsAlgorithm; 10] = {
        let mut all = [JwsAlgorithm::Rs256; 10];
        let mut i = 0;
        while i < 10 {
            all[i] = NAMES[i].1;
            i += 1;
        }
        all
    };

    /// The signature is good by `algorithm` and no other one, nor for other bytes, nor changed.
    fn check(key: &JwsKey, algorithm: JwsAlgorithm, signature: &[u8]) {
        for other in ALL {
            assert_eq!(key.verifies(other, b"text", signature), other == algorithm, "{other:?} for {algorithm:?}");
            assert!(!key.verifies(other, b"text2", signature));
            assert!(!key.verifies(other, b"text", &signature[1..]));
            assert!(!key.verifies(other, b"text", b""));
        }
        let mut bent = signature.to_vec();
        bent[7] ^= 1;
        assert!(!key.verifies(algorithm, b"text", &bent));
        assert!(key.is_for(algorithm));
    }

    #[test]
    fn names() {
        for algorithm in ALL {
            assert_eq!(JwsAlgorithm::named(algorithm.name()), Some(algorithm));
        }
        for none in ["none", "None", "", "HS256", "rs256", "ES256K", "RS1"] {
            assert_eq!(JwsAlgorithm::named(none), None, "{none}");
        }
    }

    #[test]
    fn rsa() {
        let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
        let (n, e) = (pair.public_key().modulus().big_endian_without_leading_zero(), pair.public_key().exponent());
        let e = e.big_endian_without_leading_zero();
        let key = JwsKey::rsa(n, e).unwrap();
        let mut signature = vec![0; pair.public_modulus_len()];
        pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), b"text", &mut signature).unwrap();
        check(&key, JwsAlgorithm::Rs256, &signature);
        pair.sign(&RSA_PSS_SHA512, &SystemRandom::new(), b"text", &mut signature).unwrap();
        check(&key, JwsAlgorithm::Ps512, &signature);
        assert!(JwsKey::rsa(&[&[0, 0], n].concat(), e).unwrap().verifies(JwsAlgorithm::Ps512, b"text", &signature), "zeros in front");
        for (n, e) in [(&n[1..], e), (n, &[1][..]), (n, &[][..]), (n, &[0, 0, 1]), (n, &[2]), (n, &[1, 0, 0, 0, 1]), (&[][..], e)] {
            assert!(JwsKey::rsa(n, e).is_err(), "{e:?}");
        }
    }

    #[test]
    fn ec() {
        let check_curve = |curve: JwsCurve, signing: &'static EcdsaSigningAlgorithm| {
            let pair = EcdsaKeyPair::generate(signing).unwrap();
            let point = &pair.public_key().as_ref()[1..];
            let (x, y) = point.split_at(point.len() / 2);
            let key = JwsKey::ec(curve, x, y).unwrap();
            let signature = pair.sign(&SystemRandom::new(), b"text").unwrap();
            check(&key, curve.parts().1, signature.as_ref());
            // A signature of zeros is one of no key.
            assert!(!key.verifies(curve.parts().1, b"text", &vec![0; signature.as_ref().len()]));
            assert!(JwsKey::ec(curve, x, x).is_err(), "not on the curve");
            assert!(JwsKey::ec(curve, &[], &[]).is_err());
            assert!(JwsKey::ec(curve, &[x, x].concat(), y).is_err());
        };
        check_curve(JwsCurve::P256, &ECDSA_P256_SHA256_FIXED_SIGNING);
        check_curve(JwsCurve::P384, &ECDSA_P384_SHA384_FIXED_SIGNING);
        check_curve(JwsCurve::P521, &ECDSA_P521_SHA512_FIXED_SIGNING);
    }

    #[test]
    fn ed25519() {
        let pair = Ed25519KeyPair::generate().unwrap();
        let key = JwsKey::ed25519(pair.public_key().as_ref()).unwrap();
        check(&key, JwsAlgorithm::EdDsa, pair.sign(b"text").as_ref());
        assert!(JwsKey::ed25519(&[0; 31]).is_err());
    }
}
