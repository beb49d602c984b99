//! Messages as JSON, for whoever asks a control plane: `{code, level, id: {kind, namespace, name, group}, file, line, column, field, text}`. What would
//! mend the object is not told: it is for those who have its text.

use mizzen_api::Pos;
use mizzen_types::Name;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

use crate::{Code, Id, Message};

#[derive(Serialize, Deserialize)]
struct Told {
    code: Name,
    level: Name,
    id: ToldId,
    file: Name,
    line: u32,
    column: u32,
    field: String,
    text: String,
}

#[derive(Serialize, Deserialize)]
struct ToldId {
    kind: Name,
    namespace: Name,
    name: Name,
    group: Name,
}

impl Serialize for Message {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Id { kind, namespace, name, group } = self.id.clone();
        let Pos { file, line, column } = self.pos.clone();
        let (code, level) = (self.code.id.into(), self.code.level.name().into());
        let (field, text) = (self.field.clone(), self.text.clone());
        Told { code, level, id: ToldId { kind, namespace, name, group }, file, line, column, field, text }.serialize(serializer)
    }
}

/// A code that is not known here, as of another version, is an error that names it. The level is that of the code.
impl<'de> Deserialize<'de> for Message {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Message, D::Error> {
        let told = Told::deserialize(deserializer)?;
        let code = Code::named(&told.code).ok_or_else(|| D::Error::custom(format!("unknown code `{}`", told.code)))?;
        let ToldId { kind, namespace, name, group } = told.id;
        let pos = Pos { file: told.file, line: told.line, column: told.column };
        Ok(Message { code, id: Id { kind, namespace, name, group }, pos, field: told.field, text: told.text, fix: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        let text = r#"{"code":"IST0101","level":"Error","id":{"kind":"VirtualService","namespace":"shop","name":"reviews","group":"networking.istio.io"},"file":"a.yaml","line":7,"column":3,"field":"spec.hosts[0]","text":"\"x\" is not there"}"#;
        let message: Message = serde_json::from_str(text).expect("a message");
        assert_eq!(message.to_string(), "Error [IST0101] (VirtualService shop/reviews a.yaml:7) \"x\" is not there");
        assert_eq!((message.pos.column, &*message.field), (3, "spec.hosts[0]"));
        assert_eq!(serde_json::to_string(&message).expect("JSON"), text);
        let error = serde_json::from_str::<Message>(&text.replace("IST0101", "IST9999")).expect_err("no such code");
        assert!(error.to_string().contains("unknown code `IST9999`"), "{error}");
    }
}
