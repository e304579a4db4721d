//! `docs/CONFIGURATION.md`: every key of `config.toml`, from the types that read it in `broker/src/config`
//! and the comments on their fields. A comment says what a key is, with its unit and range; its line
//! `Default: ...` says what holds without it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use syn::{Attribute, Expr, Field, Fields, Item, ItemStruct, Lit, Meta, Type};

/// The type of the whole file.
const ROOT: &str = "Config";

const HEAD: &str = "# Configuration

Made from the types in `broker/src/config` by `cargo xtask tidy`: change their comments, not this page.

`/etc/job-broker/config.toml` is TOML. An unknown key is an error, since a misspelt limit is no limit;
`job-broker check-config` says everything that is wrong at once. A reload (`systemctl reload job-broker`,
SIGHUP) puts `admins`, the policy, `[tls]`, `[limits]`, `[quotas]` and `[retention]` in force; `listen`, `[jobs]`, `[log]`,
`[metrics]`, `[traces]` and `[audit]` need a restart of the broker, which no job notices.

| type | written as |
|---|---|
| size | bytes, or a power of 1024: `4096`, `\"64K\"`, `\"256M\"`, `\"1.5G\"` |
| duration | seconds, or with units: `90`, `\"500ms\"`, `\"1h30m\"`, `\"30d\"` |
| rate | a size per second: `\"5M\"` |
| CPUs | `0.5`, `\"500m\"`, `4` |
";

/// The page for the types in this directory.
///
/// # Errors
/// Types that do not parse; a key of an unknown type, without a comment, or with a default that no
/// comment names.
pub(crate) fn render(config: &Path) -> Result<String> {
    let types = Types::read(config)?;
    let mut page = String::from(HEAD);
    types.section(&mut page, "", types.structs.get(ROOT).context("no type of the file")?)?;
    Ok(page)
}

/// The values that the page gives as defaults: section, key, value in TOML.
///
/// # Errors
/// As [`render`].
#[cfg(test)]
pub(crate) fn defaults(config: &Path) -> Result<Vec<(String, String, String)>> {
    let types = Types::read(config)?;
    let mut all = Vec::new();
    types.collect(&mut all, "", types.structs.get(ROOT).context("no type of the file")?)?;
    Ok(all)
}

struct Types {
    structs: BTreeMap<String, ItemStruct>,
}

/// One key.
struct Key {
    name: String,
    kind: &'static str,
    default: Option<String>,
    is_required: bool,
    text: String,
}

impl Types {
    fn read(directory: &Path) -> Result<Types> {
        let mut structs = BTreeMap::new();
        for entry in fs::read_dir(directory).context("cannot read broker/src/config")? {
            let path = entry?.path();
            let text = fs::read_to_string(&path)?;
            let file = syn::parse_file(&text).with_context(|| path.display().to_string())?;
            let found = file.items.into_iter().filter_map(|item| match item {
                Item::Struct(it) => Some((it.ident.to_string(), it)),
                _ => None,
            });
            structs.extend(found);
        }
        Ok(Types { structs })
    }

    /// The keys of one table of the file as a table of the page, then its sub-tables as sections.
    fn section(&self, page: &mut String, prefix: &str, table: &ItemStruct) -> Result<()> {
        let keys = self.keys(table)?;
        if !keys.is_empty() {
            page.push_str("\n| key | type | default | |\n|---|---|---|---|\n");
        }
        for Key { name, kind, default, is_required, text } in keys {
            let default = match (default, is_required) {
                (Some(value), _) => format!("`{value}`"),
                (None, true) => "required".into(),
                (None, false) => "not set".into(),
            };
            let _ = writeln!(page, "| `{name}` | {kind} | {default} | {text} |");
        }
        let mut below = self.tables(table).peekable();
        while let Some((field, table)) = below.next() {
            let is_array = is_array(&field.ty);
            let (open, close) = if is_array { ("[[", "]]") } else { ("[", "]") };
            let mut heading = format!("`{open}{prefix}{}{close}`", name(field));
            let mut text = comment(&field.attrs).0;
            // Tables of one type have the same keys.
            while let Some((next, _)) = below.next_if(|(_, next)| next.ident == table.ident) {
                let _ = write!(heading, " and `[{prefix}{}]`", name(next));
                text = format!("The first: {} The second: {}", text, comment(&next.attrs).0);
            }
            let _ = write!(page, "\n## {heading}\n\n{text}\n");
            self.section(page, &format!("{prefix}{}.", name(field)), table)?;
        }
        Ok(())
    }

    #[cfg(test)]
    fn collect(
        &self,
        all: &mut Vec<(String, String, String)>,
        prefix: &str,
        table: &ItemStruct,
    ) -> Result<()> {
        let keys = self.keys(table)?.into_iter();
        let known = keys.filter_map(|key| Some((prefix.to_owned(), key.name, key.default?)));
        all.extend(known);
        for (field, table) in self.tables(table).filter(|(field, _)| !is_array(&field.ty)) {
            self.collect(all, &format!("{prefix}{}.", name(field)), table)?;
        }
        Ok(())
    }

    fn tables<'a>(
        &'a self,
        of: &'a ItemStruct,
    ) -> impl Iterator<Item = (&'a Field, &'a ItemStruct)> {
        of.fields
            .iter()
            .filter_map(|field| Some((field, self.structs.get(&table_type(&field.ty))?)))
    }

    fn keys(&self, table: &ItemStruct) -> Result<Vec<Key>> {
        let Fields::Named(fields) = &table.fields else { bail!("{} is no table", table.ident) };
        let is_table = |field: &&Field| self.structs.contains_key(&table_type(&field.ty));
        fields.named.iter().filter(|field| !is_table(field)).map(|it| key(table, it)).collect()
    }
}

fn key(table: &ItemStruct, field: &Field) -> Result<Key> {
    let (text, default) = comment(&field.attrs);
    let (name, at) = (name(field), format!("{}.{}", table.ident, name(field)));
    if text.is_empty() {
        bail!("{at} has no comment");
    }
    let reader = serde_value(&field.attrs, "deserialize_with");
    let (ty, is_optional) = match plain(&field.ty).strip_prefix("Option<") {
        Some(inner) => (inner.trim_end_matches('>').to_owned(), true),
        None => (plain(&field.ty), false),
    };
    let kind = match (reader.as_deref(), ty.as_str()) {
        (Some("size" | "file_size"), _) => "size",
        (Some("duration" | "checkpoint"), _) => "duration",
        (Some("bytes_per_second"), _) => "rate",
        (Some("cpus"), _) => "CPUs",
        (Some("count_or_max"), _) => "whole number or `\"max\"`",
        (Some("size_or_max"), _) => "size or `\"max\"`",
        (Some("cpus_or_max"), _) => "CPUs or `\"max\"`",
        (Some("min_free_value"), _) => "percentage or size",
        (_, "SocketAddr") => "address:port",
        (_, "PathBuf") => "path",
        (_, "String" | "LogFormat") => "text",
        (_, "Vec<String>") => "list of texts",
        (_, "Vec<PathBuf>") => "list of paths",
        (_, "SpiffeNames") | (_, "OnRevoked") => "word",
        (_, "u64" | "u32") => "whole number",
        (_, "f64") => "number",
        (_, "Arguments" | "OnFailure") => "text",
        (_, "(u32,u32)") => "[first, last]",
        (_, "BTreeMap<String,Ulimit>") => "table",
        (_, "BTreeMap<String,QuotaTable>") => "table of tables",
        (reader, ty) => bail!("{at}: config_page.rs has no word for the type {ty}, {reader:?}"),
    };
    let has_default = [&table.attrs, &field.attrs].iter().any(|of| has_serde_default(of));
    if has_default && !is_optional && default.is_none() && !kind.starts_with("table") {
        bail!("{at} has a default, and its comment no line \"Default: `...`\"");
    }
    Ok(Key { name, kind, default, is_required: !has_default && !is_optional, text })
}

fn name(field: &Field) -> String {
    field.ident.as_ref().map(ToString::to_string).unwrap_or_default()
}

/// The type of a table, or of each table of an array of tables.
fn table_type(ty: &Type) -> String {
    let plain = plain(ty);
    let inner = plain.strip_prefix("Vec<").and_then(|rest| rest.strip_suffix('>'));
    inner.map(str::to_owned).unwrap_or(plain)
}

fn is_array(ty: &Type) -> bool {
    plain(ty).starts_with("Vec<")
}

/// A type without blanks: `Option<u64>`.
fn plain(ty: &Type) -> String {
    quote::quote!(#ty).to_string().replace(' ', "")
}

/// What a comment says, for a cell of a table; and its default.
fn comment(attrs: &[Attribute]) -> (String, Option<String>) {
    let lines = attrs.iter().filter_map(|attr| match &attr.meta {
        Meta::NameValue(pair) if pair.path.is_ident("doc") => text(&pair.value),
        _ => None,
    });
    let (mut said, mut default) = (Vec::new(), None);
    for line in lines {
        match line.trim().strip_prefix("Default: `").and_then(|rest| rest.strip_suffix('`')) {
            Some(value) => default = Some(value.to_owned()),
            None => said.push(line.trim().replace('|', "\\|")),
        }
    }
    (said.join(" ").trim().to_owned(), default)
}

fn text(value: &Expr) -> Option<String> {
    match value {
        Expr::Lit(it) => match &it.lit {
            Lit::Str(text) => Some(text.value()),
            _ => None,
        },
        _ => None,
    }
}

fn has_serde_default(attrs: &[Attribute]) -> bool {
    let mut found = false;
    for attr in attrs.iter().filter(|attr| attr.path().is_ident("serde")) {
        // What it does not understand, serde's own derive has judged.
        let _ = attr.parse_nested_meta(|meta| {
            found |= meta.path.is_ident("default");
            if meta.input.peek(syn::Token![=]) {
                meta.value()?.parse::<Lit>().map(drop)
            } else {
                Ok(())
            }
        });
    }
    found
}

fn serde_value(attrs: &[Attribute], of: &str) -> Option<String> {
    let mut found = None;
    for attr in attrs.iter().filter(|attr| attr.path().is_ident("serde")) {
        let _ = attr.parse_nested_meta(|meta| {
            if meta.input.peek(syn::Token![=]) {
                let value: syn::LitStr = meta.value()?.parse()?;
                if meta.path.is_ident(of) {
                    found = Some(value.value());
                }
            }
            Ok(())
        });
    }
    found
}

#[cfg(test)]
mod tests {
    use job_broker::config::Config;

    use super::*;

    const TLS: &str = "[tls]\ncert = \"c\"\nkey = \"k\"\nclient_ca = \"a\"\n";

    fn workspace() -> &'static Path {
        Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
    }

    fn read(text: &str) -> Result<Config, String> {
        toml::from_str(text).map_err(|e| format!("{e}\n{text}"))
    }

    #[test]
    fn the_defaults_of_the_page_are_those_of_the_program() {
        let without = format!("{:?}", read(TLS).unwrap());
        let defaults = defaults(&workspace().join("broker/src/config")).unwrap();
        assert!(defaults.len() > 10, "{defaults:?}");
        for (section, key, value) in defaults {
            let line = format!("{section}{key} = {value}\n");
            let with = match section.as_str() {
                "tls." => format!("{TLS}{key} = {value}\n"),
                _ => format!("{line}{TLS}"),
            };
            assert_eq!(format!("{:?}", read(&with).unwrap()), without, "{line}");
        }
    }

    #[test]
    fn the_packaged_configuration_names_only_keys_that_there_are() {
        let path = workspace().join("packaging/etc/config.toml");
        let packaged = fs::read_to_string(path).unwrap();
        read(&packaged).unwrap();
        let is_key = |line: &str| {
            line.strip_prefix('#')
                .and_then(|rest| rest.split_once(" = "))
                .is_some_and(|(key, _)| key.chars().all(|c| c.is_ascii_lowercase() || c == '_'))
        };
        let put_in = |line: &str| if is_key(line) { line[1..].to_owned() } else { line.to_owned() };
        let all: Vec<_> = packaged.lines().map(put_in).collect();
        assert!(all.iter().zip(packaged.lines()).filter(|(a, b)| a != b).count() > 10);
        read(&all.join("\n")).unwrap();
    }

    #[test]
    fn the_examples_for_operators_are_configurations() {
        let page = fs::read_to_string(workspace().join("docs/OPERATING.md")).unwrap();
        let examples: Vec<_> = page
            .split("```toml\n")
            .skip(1)
            .filter_map(|rest| Some(rest.split_once("```")?.0))
            .collect();
        assert!(examples.len() > 1);
        // A table of verdicts is for `job-broker policy test`.
        for example in examples.into_iter().filter(|example| !example.contains("[[test]]")) {
            let tls = if example.contains("[tls]") { "" } else { TLS };
            read(&format!("{example}{tls}")).unwrap();
        }
    }
}
