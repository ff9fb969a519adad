//! Chat templates, rendered as transformers' apply_chat_template does.

use std::io::{self, Write};

use minijinja::{Environment, Error, ErrorKind, Value};
use serde_json::{Map, Value as Json};

use crate::abi::Failure;
use crate::marks::Marks;
use crate::python_json::tojson;
use crate::tokenizer::{EncodeOptions, TextTokenizer};

/// Templates come with a model and are not trusted: bounds on what one rendering may do.
const FUEL: u64 = 20_000_000; // template instructions; a second or so
const MAX_OUTPUT: usize = 64 << 20;
const MAX_SOURCE: usize = 4 << 20;
const NAME: &str = "chat";

pub struct ChatTemplate {
    environment: Environment<'static>,
    special: Map<String, Json>, // bos_token, eos_token, ...
    source: String,
}

impl ChatTemplate {
    pub fn new(source: &str, special: &str) -> Result<Self, Failure> {
        if source.len() > MAX_SOURCE {
            return Err(Failure::exhausted(format!(
                "chat template: {} bytes; at most {MAX_SOURCE}",
                source.len()
            )));
        }
        let special = match serde_json::from_str(special) {
            Ok(Json::Object(map)) => map,
            _ => return Err(Failure::invalid("chat template: special tokens: want a JSON object")),
        };
        let source = without_generation_tags(source);
        let mut environment = Environment::new();
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.set_fuel(Some(FUEL));
        environment.add_filter("tojson", tojson);
        environment.add_function("raise_exception", raise_exception);
        environment
            .add_template_owned(NAME, source.clone())
            .map_err(|e| Failure::invalid(format!("chat template: {}", described(&e))))?;
        Ok(ChatTemplate { environment, special, source })
    }

    pub fn render(&self, context: &str, now: i64) -> Result<String, Failure> {
        self.render_value(parse(context)?, now)
    }

    fn render_value(&self, mut context: Json, now: i64) -> Result<String, Failure> {
        let Json::Object(values) = &mut context else {
            return Err(Failure::invalid("chat request: want a JSON object"));
        };
        if !values.get("messages").is_some_and(Json::is_array) {
            return Err(Failure::invalid("chat request: messages: want an array"));
        }
        let begun = take_begun_answer(values)?;
        for (name, default) in
            [("tools", Json::Null), ("documents", Json::Null), ("add_generation_prompt", false.into())]
        {
            values.entry(name).or_insert(default);
        }
        for (name, value) in &self.special {
            values.insert(name.clone(), value.clone());
        }
        // strftime_now reads the request's time, not a clock: it is a value of this rendering.
        let mut environment = self.environment.clone();
        environment.add_function("strftime_now", move |format: &str| strftime(format, now));
        let template = environment.get_template(NAME).map_err(failure)?;
        let mut out = Bounded(Vec::new());
        template.render_captured_to(Value::from_serialize(&context), &mut out).map_err(failure)?;
        let mut text =
            String::from_utf8(out.0).map_err(|_| Failure::invalid("chat template: the output is no UTF-8"))?;
        text.push_str(&begun);
        Ok(text)
    }

    /// The request as token ids: special tokens of the template are parsed, those that users wrote are text.
    pub fn encode(
        &self,
        tokenizer: &TextTokenizer,
        context: &str,
        now: i64,
        most_tokens: usize,
    ) -> Result<Vec<u32>, Failure> {
        let mut context = parse(context)?;
        let marks = Marks::put(&mut context, &self.source, &tokenizer.special)?;
        let text = self.render_value(context, now)?;
        tokenizer.encode(
            &text,
            &EncodeOptions { add_special: false, parse_special: true, most_tokens },
            &marks,
        )
    }
}

/// With `continue_final_message` the last message is the beginning of the answer: it is not rendered, but stands behind
/// the generation prompt, where the model goes on with it. "" without.
fn take_begun_answer(values: &mut Map<String, Json>) -> Result<String, Failure> {
    if values.remove("continue_final_message") != Some(Json::Bool(true)) {
        return Ok(String::new());
    }
    let last = values["messages"].as_array_mut().and_then(Vec::pop);
    let content = last.filter(|m| m["role"] == "assistant").map(|mut m| m["content"].take());
    let Some(Json::String(begun)) = content else {
        return Err(Failure::invalid("continue_final_message: the last message must be an assistant's, of text"));
    };
    values.insert("add_generation_prompt".into(), true.into());
    Ok(begun)
}

fn parse(context: &str) -> Result<Json, Failure> {
    serde_json::from_str(context).map_err(|e| Failure::invalid(format!("chat request: {e}")))
}

/// Collects the output up to MAX_OUTPUT bytes.
struct Bounded(Vec<u8>);

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() > MAX_OUTPUT - self.0.len() {
            return Err(io::Error::new(io::ErrorKind::OutOfMemory, "output"));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A message that raise_exception carries out of the template.
const RAISED: &str = "raised by the template: ";

fn raise_exception(message: String) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, format!("{RAISED}{message}")))
}

fn described(error: &Error) -> String {
    let what = match error.detail() {
        Some(detail) => format!("{}: {detail}", error.kind()),
        None => error.kind().to_string(),
    };
    match error.line() {
        Some(line) => format!("line {line}: {what}"),
        None => what,
    }
}

fn failure(error: Error) -> Failure {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(e) = cause {
        if let Some(message) =
            e.downcast_ref::<Error>().and_then(|e| e.detail()).and_then(|d| d.strip_prefix(RAISED))
        {
            return Failure::invalid(format!("chat template: {message}"));
        }
        cause = e.source();
    }
    match error.kind() {
        ErrorKind::OutOfFuel => Failure::exhausted(format!("chat template: more than {FUEL} instructions")),
        ErrorKind::WriteFailure => {
            Failure::exhausted(format!("chat template: more than {MAX_OUTPUT} bytes of output"))
        }
        _ => Failure::invalid(format!("chat template: {}", described(&error))),
    }
}

/// Time of day as Python's datetime.now().strftime gives it: local time, the C library's format.
fn strftime(format: &str, now: i64) -> Result<String, Error> {
    let bad = |what: &'static str| Error::new(ErrorKind::InvalidOperation, what);
    let format = std::ffi::CString::new(format).map_err(|_| bad("strftime_now: the format holds a NUL"))?;
    let mut out = [0u8; 256];
    // SAFETY: localtime_r fills `tm`; strftime writes at most out.len() bytes.
    let size = unsafe {
        let mut tm: libc::tm = std::mem::zeroed();
        let seconds = now as libc::time_t;
        if libc::localtime_r(&seconds, &mut tm).is_null() {
            return Err(bad("strftime_now: no such time"));
        }
        libc::strftime(out.as_mut_ptr().cast(), out.len(), format.as_ptr(), &tm)
    };
    Ok(String::from_utf8_lossy(&out[..size]).into_owned())
}

/// transformers' {% generation %} blocks mark the assistant's text for training; their content is printed as it is.
fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(open) = rest.find("{%") {
        let Some(length) = rest[open..].find("%}") else { break };
        let tag = &rest[open + 2..open + length];
        let word = tag.trim_matches(|c| c == '-' || c == '+').trim();
        let replacement = match word {
            "generation" => Some("if true"),
            "endgeneration" => Some("endif"),
            _ => None,
        };
        out.push_str(&rest[..open + 2]);
        out.push_str(&replacement.map_or(tag.to_string(), |new| tag.replacen(word, new, 1)));
        out.push_str("%}");
        rest = &rest[open + length + 2..];
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(source: &str, context: &str) -> Result<String, Failure> {
        ChatTemplate::new(source, r#"{"bos_token": "<s>"}"#)?.render(context, 86_400)
    }

    #[test]
    fn defaults_and_special_tokens() {
        let source =
            "{{ bos_token }}{{ tools is none }}{{ add_generation_prompt }}{{ eos_token is defined }}";
        assert_eq!(render(source, r#"{"messages": [], "bos_token": "x"}"#).unwrap(), "<s>TrueFalseFalse");
    }

    #[test]
    fn an_answer_that_is_begun() {
        let source = "{% for m in messages %}[{{ m.content }}]{% endfor %}{% if add_generation_prompt %}>{% endif %}";
        let begun = |last: &str| {
            let messages = format!(r#"[{{"role":"user","content":"a"}},{last}]"#);
            render(source, &format!(r#"{{"messages":{messages},"continue_final_message":true}}"#))
        };
        assert_eq!(begun(r#"{"role":"assistant","content":"b "}"#).unwrap(), "[a]>b ");
        assert!(begun(r#"{"role":"user","content":"b"}"#).is_err());
        assert!(begun(r#"{"role":"assistant","content":null}"#).is_err());
        assert!(render(source, r#"{"messages":[],"continue_final_message":true}"#).is_err());
    }

    #[test]
    fn errors() {
        let raised = render("\n{{ raise_exception('no ' ~ 'tools') }}", r#"{"messages": []}"#).unwrap_err();
        assert_eq!(raised.message, "chat template: no tools");
        assert!(render("{% if %}", r#"{"messages": []}"#)
            .unwrap_err()
            .message
            .starts_with("chat template: line 1"));
        assert_eq!(
            render("x", r#"{"messages": {}}"#).unwrap_err().message,
            "chat request: messages: want an array"
        );
        assert!(render("x", "[]").is_err());
        assert!(render("x", "{").unwrap_err().message.starts_with("chat request: EOF"));
    }

    #[test]
    fn bounds() {
        let endless = "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}";
        assert_eq!(render(endless, r#"{"messages": []}"#).unwrap_err().code, crate::abi::Code::Exhausted);
        let long = "{% set x = 'a' * 1000000 %}{% for i in range(100) %}{{ x }}{% endfor %}";
        assert_eq!(render(long, r#"{"messages": []}"#).unwrap_err().code, crate::abi::Code::Exhausted);
    }

    #[test]
    fn time_and_generation_blocks() {
        let source =
            "{{ strftime_now('%Y') }}{% for i in [1] %}{%- generation -%} a {%- endgeneration %}{% endfor %}";
        assert_eq!(render(source, r#"{"messages": []}"#).unwrap(), "1970a");
    }

    #[test]
    fn python_methods_and_loop_controls() {
        let source = "{% for m in messages %}{% if loop.index > 1 %}{% break %}{% endif %}{{ m.content.strip().upper() }}{% endfor %}";
        assert_eq!(render(source, r#"{"messages": [{"content": " a "}, {"content": "b"}]}"#).unwrap(), "A");
    }
}
