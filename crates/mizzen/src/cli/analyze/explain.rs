//! `--explain`: what a code means.

use mizzen_analyze::{Code, Explanation};

/// What is found, why it hurts and how it is mended, as one text.
pub(crate) fn text(code: &Code) -> String {
    let Explanation { what, why, mend } = mizzen_analyze::explain(code);
    format!("{what} {why} {mend}")
}

/// All of it, for people.
///
/// # Errors
/// If there is no such code, with the one that comes nearest.
pub(crate) fn page(name: &str) -> Result<String, String> {
    let Some(code) = Code::named(name) else {
        let all = mizzen_analyze::CODES.iter().flat_map(|code| [code.id, code.name]);
        let near = mizzen_api::nearest(name, all).map(|near| format!(", did you mean {near}?")).unwrap_or_default();
        return Err(format!("there is no code `{name}`{near}"));
    };
    let Explanation { what, why, mend } = mizzen_analyze::explain(code);
    let kind = if code.is_overview { ", an overview: told with --verbose or when nothing else is said" } else { "" };
    Ok(format!("{} {} ({}{kind})\n\nFound:   {what}\nWhy:     {why}\nMending: {mend}\n", code.id, code.name, code.level))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_a_page() {
        for code in mizzen_analyze::CODES {
            let page = page(code.name).expect("a page");
            assert!(page.starts_with(&format!("{} {} ({}", code.id, code.name, code.level)), "{page}");
            assert!(page.lines().skip(2).all(|line| line.len() > 20) && text(code).len() > 40, "{page}");
        }
        let error = page("ReferencedResourceNotFund").unwrap_err();
        assert_eq!(error, "there is no code `ReferencedResourceNotFund`, did you mean ReferencedResourceNotFound?");
    }
}
