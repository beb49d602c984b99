//! The licences of all dependencies, from the metadata that crates.io requires.

use std::collections::BTreeSet;

use anyhow::Result;
use serde_json::Value;
use spdx::{Expression, Licensee, ParseMode};

/// Licences that a program under Apache-2.0 may be distributed with.
const ALLOWED: [&str; 11] = [
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "MIT",
    "MIT-0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "Zlib",
    "Unicode-3.0",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
];

/// The problems found.
pub(crate) fn check(metadata: &Value) -> Result<Vec<String>> {
    let allowed = ALLOWED.iter().map(|l| Licensee::parse(l)).collect::<std::result::Result<Vec<_>, _>>()?;
    let mut problems = BTreeSet::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let (name, licence) = (package["name"].as_str().unwrap_or_default(), package["license"].as_str());
        let Some(licence) = licence else {
            problems.insert(format!("{name} names no licence"));
            continue;
        };
        let fits = Expression::parse_mode(licence, ParseMode::LAX)
            .is_ok_and(|expression| expression.evaluate(|wanted| allowed.iter().any(|have| have.satisfies(wanted))));
        // OpenSSL's old licence covers files in aws-lc-sys that are not built into what we ship.
        if !fits && name != "aws-lc-sys" {
            problems.insert(format!("{name} is licensed under {licence}, which is not in the list"));
        }
    }
    Ok(problems.into_iter().collect())
}
