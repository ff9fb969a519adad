//! `tojson` as transformers gives it to chat templates: Python's json.dumps with ensure_ascii=False. The engine's own
//! filter differs: it escapes HTML and leaves out the spaces.

use minijinja::value::{from_args, Kwargs, Rest, ValueKind};
use minijinja::{Error, ErrorKind, Value};

struct Style {
    ensure_ascii: bool,
    indent: Option<String>,
    item: String,
    key: String,
    sort_keys: bool,
}

/// Parameters in transformers' order: tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False).
pub fn tojson(value: Value, arguments: Rest<Value>) -> Result<Value, Error> {
    let (positional, kwargs): (&[Value], Kwargs) = from_args(&arguments)?;
    if positional.len() > 4 {
        return Err(Error::from(ErrorKind::TooManyArguments));
    }
    let named = |place: usize, name: &str| -> Result<Option<Value>, Error> {
        let given =
            if kwargs.has(name) { Some(kwargs.get::<Value>(name)?) } else { positional.get(place).cloned() };
        Ok(given.filter(|v| !v.is_none() && !v.is_undefined()))
    };
    let ensure_ascii = named(0, "ensure_ascii")?.is_some_and(|v| v.is_true());
    let indent = named(1, "indent")?.map(indent_text).transpose()?;
    let separators = named(2, "separators")?;
    let sort_keys = named(3, "sort_keys")?.is_some_and(|v| v.is_true());
    kwargs.assert_all_used()?;
    let (item, key) = match separators {
        Some(pair) => (text(pair.get_item_by_index(0)?)?, text(pair.get_item_by_index(1)?)?),
        None if indent.is_some() => (",".to_string(), ": ".to_string()),
        None => (", ".to_string(), ": ".to_string()),
    };
    let mut out = String::new();
    dump(&value, &Style { ensure_ascii, indent, item, key, sort_keys }, 0, &mut out)?;
    Ok(Value::from_safe_string(out))
}

fn bad(message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidOperation, message)
}

fn text(value: Value) -> Result<String, Error> {
    value.as_str().map(str::to_string).ok_or_else(|| bad("tojson: separators: want two strings"))
}

const MAX_INDENT: i64 = 64;

fn indent_text(value: Value) -> Result<String, Error> {
    if let Some(text) = value.as_str() {
        return Ok(text.to_string());
    }
    let width = i64::try_from(value).map_err(|_| bad("tojson: indent: want a number or a string"))?;
    Ok(" ".repeat(width.clamp(0, MAX_INDENT) as usize))
}

const MAX_DEPTH: usize = 200;

fn dump(value: &Value, style: &Style, depth: usize, out: &mut String) -> Result<(), Error> {
    if depth > MAX_DEPTH {
        return Err(bad("tojson: nested too deeply"));
    }
    match value.kind() {
        ValueKind::None => out.push_str("null"),
        ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
        ValueKind::Number => number(value, out)?,
        ValueKind::String => string(value.as_str().unwrap_or_default(), style.ensure_ascii, out),
        ValueKind::Seq | ValueKind::Iterable => {
            let items = value.try_iter()?.collect::<Vec<_>>();
            list(style, depth, ('[', ']'), items.len(), out, |i, out| {
                dump(&items[i], style, depth + 1, out)
            })?;
        }
        ValueKind::Map => {
            let mut keys =
                value.try_iter()?.map(|k| Ok((key_text(&k)?, k))).collect::<Result<Vec<_>, Error>>()?;
            if style.sort_keys {
                keys.sort_by(|a, b| a.0.cmp(&b.0));
            }
            list(style, depth, ('{', '}'), keys.len(), out, |i, out| {
                string(&keys[i].0, style.ensure_ascii, out);
                out.push_str(&style.key);
                dump(&value.get_item(&keys[i].1)?, style, depth + 1, out)
            })?;
        }
        kind => return Err(bad(format!("tojson: a value of type {kind} is not JSON serializable"))),
    }
    Ok(())
}

fn list(
    style: &Style,
    depth: usize,
    brackets: (char, char),
    count: usize,
    out: &mut String,
    mut item: impl FnMut(usize, &mut String) -> Result<(), Error>,
) -> Result<(), Error> {
    out.push(brackets.0);
    for i in 0..count {
        if i > 0 {
            out.push_str(&style.item);
        }
        new_line(style, depth + 1, out);
        item(i, out)?;
    }
    if count > 0 {
        new_line(style, depth, out);
    }
    out.push(brackets.1);
    Ok(())
}

fn new_line(style: &Style, depth: usize, out: &mut String) {
    if let Some(indent) = &style.indent {
        out.push('\n');
        for _ in 0..depth {
            out.push_str(indent);
        }
    }
}

/// Python's json turns keys that are no strings into their JSON text.
fn key_text(key: &Value) -> Result<String, Error> {
    let mut out = String::new();
    match key.kind() {
        ValueKind::String => out.push_str(key.as_str().unwrap_or_default()),
        ValueKind::None => out.push_str("null"),
        ValueKind::Bool => out.push_str(if key.is_true() { "true" } else { "false" }),
        ValueKind::Number => number(key, &mut out)?,
        kind => return Err(bad(format!("tojson: keys must be strings, not {kind}"))),
    }
    Ok(out)
}

fn number(value: &Value, out: &mut String) -> Result<(), Error> {
    if value.is_integer() {
        out.push_str(&value.to_string());
    } else {
        out.push_str(&python_float(f64::try_from(value.clone())?));
    }
    Ok(())
}

/// Python's repr of a float: the shortest digits, an exponent below 1e-4 and from 1e16 on.
fn python_float(x: f64) -> String {
    if x.is_nan() {
        return "NaN".to_string();
    }
    if x.is_infinite() {
        return if x > 0.0 { "Infinity" } else { "-Infinity" }.to_string();
    }
    let scientific = format!("{x:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let power: i32 = exponent.parse().unwrap_or(0);
    if (-4..16).contains(&power) {
        let plain = x.to_string();
        return if plain.contains('.') { plain } else { plain + ".0" };
    }
    format!("{digits}e{}{:02}", if power < 0 { '-' } else { '+' }, power.abs())
}

fn string(text: &str, ensure_ascii: bool, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            c if (c as u32) < 0x20 => out.push_str(&format!("\\u{:04x}", c as u32)),
            // Marks of marks.rs must come out as they are; real text has no characters from there.
            c if ensure_ascii && !c.is_ascii() && !crate::marks::is_private(c) => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    out.push_str(&format!("\\u{unit:04x}"));
                }
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(source: &str) -> String {
        let mut env = minijinja::Environment::new();
        env.add_filter("tojson", tojson);
        env.render_str(source, ()).unwrap_or_else(|e| format!("error: {}", e.detail().unwrap_or("")))
    }

    #[test]
    fn floats_as_python() {
        for (x, want) in [
            (1.0, "1.0"),
            (0.1, "0.1"),
            (1e16, "1e+16"),
            (1e15, "1000000000000000.0"),
            (1.5e-5, "1.5e-05"),
            (0.0001, "0.0001"),
            (-0.0, "-0.0"),
            (1.7976931348623157e308, "1.7976931348623157e+308"),
            (12.5, "12.5"),
            (5e-324, "5e-324"),
            (123456789.125, "123456789.125"),
        ] {
            assert_eq!(python_float(x), want);
        }
    }

    #[test]
    fn shapes() {
        assert_eq!(
            render("{{ {'a': [1, 2.0, none, true], 'b': {}}|tojson }}"),
            r#"{"a": [1, 2.0, null, true], "b": {}}"#
        );
        assert_eq!(render("{{ {'b': 1, 'a': []}|tojson(sort_keys=true) }}"), r#"{"a": [], "b": 1}"#);
        assert_eq!(render("{{ {'a': [1, {}]}|tojson(indent=2) }}"), "{\n  \"a\": [\n    1,\n    {}\n  ]\n}");
        assert_eq!(render("{{ [1, 2]|tojson(separators=(',', ':')) }}"), "[1,2]");
        assert_eq!(render("{{ 'é<&\\'😀'|tojson }}"), "\"é<&'😀\"");
        assert_eq!(render("{{ 'é😀'|tojson(ensure_ascii=true) }}"), r#""\u00e9\ud83d\ude00""#);
        assert_eq!(render("{{ 'é'|tojson(true) }}"), r#""\u00e9""#);
        assert_eq!(render("{{ {1: 2, true: 3}|tojson }}"), r#"{"1": 2, "true": 3}"#);
        assert!(render("{{ missing|tojson }}").contains("not JSON serializable"));
        assert!(render("{{ 1|tojson(colour=3) }}").starts_with("error"));
    }
}
