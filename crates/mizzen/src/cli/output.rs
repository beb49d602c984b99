//! How results are printed: tables in istioctl's form, JSON and YAML.

use std::io::Write;

use anyhow::Result;
use serde::Serialize;

/// The form of a result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Output {
    /// A table.
    #[default]
    #[value(alias = "table")]
    Short,
    /// JSON.
    Json,
    /// YAML.
    Yaml,
}

/// The form of a result that is a text for people.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Form {
    /// For people.
    #[default]
    Text,
    /// JSON.
    Json,
    /// YAML.
    Yaml,
}

/// A form that `kubectl apply` takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Objects {
    /// YAML, one document each.
    #[default]
    Yaml,
    /// JSON, one list.
    Json,
}

impl Objects {
    /// Objects of Kubernetes in this form.
    pub(crate) fn render(self, objects: &[impl Serialize]) -> Result<String> {
        Ok(match self {
            // By way of a value, which has the order of fields that people expect.
            Objects::Yaml => {
                let each = objects.iter().map(|object| Ok(serde_saphyr::to_string(&serde_json::to_value(object)?)?));
                each.collect::<Result<Vec<_>>>()?.join("---\n")
            }
            Objects::Json => {
                let list = serde_json::json!({ "apiVersion": "v1", "kind": "List", "items": serde_json::to_value(objects)? });
                serde_json::to_string_pretty(&list)? + "\n"
            }
        })
    }
}

/// JSON or YAML of `value`; the text for [`Form::Text`].
pub(crate) fn render_form(form: Form, value: &impl Serialize, text: impl FnOnce() -> Result<String>) -> Result<String> {
    let output = match form {
        Form::Text => Output::Short,
        Form::Json => Output::Json,
        Form::Yaml => Output::Yaml,
    };
    render(output, value, text)
}

/// Rows under a header, in columns as wide as their widest cell and five spaces apart, as istioctl prints them.
pub(crate) fn table(header: &[&str], rows: &[Vec<String>]) -> Result<String> {
    let mut writer = tabwriter::TabWriter::new(Vec::new()).padding(5).minwidth(0);
    writeln!(writer, "{}", header.join("\t"))?;
    for row in rows {
        writeln!(writer, "{}", row.join("\t"))?;
    }
    Ok(String::from_utf8(writer.into_inner()?)?)
}

/// JSON or YAML of `value`; the table for [`Output::Short`].
pub(crate) fn render(output: Output, value: &impl Serialize, short: impl FnOnce() -> Result<String>) -> Result<String> {
    Ok(match output {
        Output::Short => short()?,
        Output::Json => serde_json::to_string_pretty(value)? + "\n",
        Output::Yaml => serde_saphyr::to_string(value)?,
    })
}

/// Prints to standard output. A reader that has gone away (`| head`) ends the program quietly.
pub(crate) fn print(text: &str) -> Result<()> {
    ended(anstream::stdout().lock().write_all(text.as_bytes()))
}

/// The same with colours as they are, terminal or not.
pub(crate) fn print_as_is(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    ended(out.write_all(text.as_bytes()).and_then(|()| out.flush()))
}

fn ended(result: std::io::Result<()>) -> Result<()> {
    match result {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        other => Ok(other?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns() {
        let rows = [vec!["a".to_owned(), "b".to_owned(), "c".to_owned()], vec!["longer".to_owned(), String::new(), "d".to_owned()]];
        let text = table(&["NAME", "X", "Y"], &rows).unwrap();
        assert_eq!(text, "NAME       X     Y\na          b     c\nlonger           d\n");
    }
}
