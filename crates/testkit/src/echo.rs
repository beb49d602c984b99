//! The servers of a load, from the sample's programs, and how they answer over HTTP/1.1: for loads that are to notice whatever goes wrong.

use serde_json::Value;

/// `echo` in one version. It is the sample's reviews: a version that is none of the sample's has no stars, and so asks nobody.
pub fn echo(namespace: &str, version: &str, replicas: u32) -> String {
    format!(
        "
apiVersion: apps/v1
kind: Deployment
metadata: {{name: echo-{version}, namespace: {namespace}}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: echo, version: {version}}}}}
  template:
    metadata: {{labels: {{app: echo, version: {version}}}}}
    spec:
      serviceAccountName: echo
      containers:
      - name: echo
        image: bookshop/reviews
        command: [bookshop-reviews]
        env: [{{name: VERSION, value: {version}}}]
        readinessProbe: {{httpGet: {{path: /healthz, port: 9080}}}}
"
    )
}

/// `stock`, a service over plain TCP.
pub fn stock(namespace: &str, replicas: u32) -> String {
    format!(
        "
apiVersion: v1
kind: Service
metadata: {{name: stock, namespace: {namespace}}}
spec:
  selector: {{app: stock}}
  ports: [{{name: tcp, port: 7070}}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: stock, namespace: {namespace}}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: stock}}}}
  template:
    metadata: {{labels: {{app: stock}}}}
    spec:
      serviceAccountName: echo
      containers:
      - name: stock
        image: bookshop/stock
        command: [bookshop-stock]
        readinessProbe: {{tcpSocket: {{port: 7070}}}}
"
    )
}

/// The version of the `echo` that gave this answer.
///
/// # Errors
/// If it is none of 200 with a version in it.
pub fn version(status: u16, body: &[u8]) -> Result<String, String> {
    let text = String::from_utf8_lossy(body);
    if status != 200 {
        return Err(format!("{status}: {text}"));
    }
    let answer: Value = serde_json::from_slice(body).map_err(|e| format!("{e}: {text}"))?;
    Ok(answer["version"].as_str().unwrap_or_default().to_owned())
}

/// The head of an answer, taken line by line from whatever reads it.
#[derive(Debug, Default)]
pub struct Head {
    /// The first line.
    status: String,
    length: Option<usize>,
    closes: bool,
}

impl Head {
    /// Takes a line, or what came in its place. Returns whether it was the last one.
    ///
    /// # Errors
    /// If the head does not come to its end.
    pub fn line(&mut self, read: std::io::Result<usize>, line: &str) -> Result<bool, String> {
        match read {
            Ok(0) => return Err(format!("the connection ended in or before the answer's head {:?}", self.status)),
            Ok(_) => {}
            Err(error) => return Err(format!("no answer: {error}")),
        }
        let text = line.trim_end();
        if self.status.is_empty() {
            text.clone_into(&mut self.status);
        } else if let Some((name, value)) = text.split_once(':') {
            match (name.to_ascii_lowercase().as_str(), value.trim()) {
                ("content-length", value) => self.length = value.parse().ok(),
                ("connection", "close") => self.closes = true,
                _ => {}
            }
        } else {
            return Ok(text.is_empty());
        }
        Ok(false)
    }

    /// The length of the body.
    ///
    /// # Errors
    /// If none was said.
    pub fn length(&self) -> Result<usize, String> {
        self.length.ok_or_else(|| format!("an answer without a length: {}", self.status))
    }

    /// The status.
    ///
    /// # Errors
    /// If the first line has none.
    pub fn status(&self) -> Result<u16, String> {
        self.status.split(' ').nth(1).and_then(|s| s.parse().ok()).ok_or_else(|| format!("not HTTP: {:?}", self.status))
    }

    /// Whether the other side keeps the connection.
    pub fn keeps(&self) -> bool {
        !self.closes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads() {
        let read = |lines: &[&str]| {
            let mut head = Head::default();
            for line in lines {
                if head.line(Ok(line.len()), line)? {
                    return Ok((head.status()?, head.length()?, head.keeps()));
                }
            }
            Err(head.line(Ok(0), "").unwrap_err())
        };
        for (lines, expected) in [
            (&["HTTP/1.1 200 OK\r\n", "Content-Length: 3\r\n", "\r\n"][..], Ok((200, 3, true))),
            (&["HTTP/1.1 503 No\r\n", "connection: close\r\n", "content-length: 0\r\n", "\r\n"], Ok((503, 0, false))),
            (&["HTTP/1.1 200 OK\r\n", "\r\n"], Err("an answer without a length: HTTP/1.1 200 OK")),
            (&["nothing\r\n", "content-length: 0\r\n", "\r\n"], Err("not HTTP: \"nothing\"")),
            (&["HTTP/1.1 200 OK\r\n"], Err("the connection ended in or before the answer's head \"HTTP/1.1 200 OK\"")),
            (&[], Err("the connection ended in or before the answer's head \"\"")),
        ] {
            assert_eq!(read(lines), expected.map_err(str::to_owned), "{lines:?}");
        }
    }
}
