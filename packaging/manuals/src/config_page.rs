//! `docs/CONFIGURATION.md`: every key of `config.toml` and of `policy.toml`, from the types that read them in
//! `broker/src/config` and `broker/src/auth/policy/file.rs` and the comments on their fields. A comment says what a key is, with its unit and range; its line
//! `Default: ...` says what holds without it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use syn::{Attribute, Expr, Field, Fields, Item, ItemEnum, ItemStruct, Lit, Meta, Type};

/// The type of the whole file.
const ROOT: &str = "Config";
/// The type of the whole policy file.
const POLICY_ROOT: &str = "PolicyFile";

const HEAD: &str = "# Configuration

Made from the types in `broker/src/config` and `broker/src/auth/policy/file.rs` by `cargo xtask tidy`: change their
comments, not this page. [The policy](#policytoml) has a file of its own.

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

const POLICY_HEAD: &str = "
## `policy.toml`

`/etc/job-broker/policy.toml`, or the file that `policy` names, says who may do what; what it means is in
[OPERATING.md](OPERATING.md#policy). It belongs to root, and nobody else may write it. An unknown key is an error.
`*` in a glob is any text and `?` one character; in a path both stop at a slash, and `**` does not. A backslash makes the
next character stand for itself. A glob has 256 bytes at most, a file 256 KiB, 256 roles and 4,096 globs.
`job-broker check-config` says what is wrong with it, `job-broker policy test FILE` whether it says what you mean, and a
reload puts it in force: one with a fault changes nothing.
";

/// The page for the types of the configuration, in this directory, and for those of the policy, in this file.
///
/// # Errors
/// Types that do not parse; a key of an unknown type, without a comment, or with a default that no
/// comment names.
pub(crate) fn render(config: &Path, policy: &Path) -> Result<String> {
    let types = Types::read(config)?;
    let mut page = String::from(HEAD);
    types.section(&mut page, "", types.root(ROOT)?)?;
    page.push_str(POLICY_HEAD);
    let types = Types::of("###", [policy.to_owned()])?;
    types.section(&mut page, "", types.root(POLICY_ROOT)?)?;
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
    types.collect(&mut all, "", types.root(ROOT)?)?;
    Ok(all)
}

struct Types {
    structs: BTreeMap<String, ItemStruct>,
    /// The table that a value may be that may be a word as well, by the type of that value.
    alternatives: BTreeMap<String, String>,
    /// What headings begin with.
    level: &'static str,
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
        let entries = fs::read_dir(directory).context("cannot read broker/src/config")?;
        let files: Result<Vec<_>, _> = entries.map(|entry| entry.map(|it| it.path())).collect();
        Types::of("##", files?)
    }

    fn of(level: &'static str, files: impl IntoIterator<Item = PathBuf>) -> Result<Types> {
        let (structs, alternatives) = (BTreeMap::new(), BTreeMap::new());
        let mut types = Types { structs, alternatives, level };
        for path in files {
            let text = fs::read_to_string(&path)?;
            let file = syn::parse_file(&text).with_context(|| path.display().to_string())?;
            for item in file.items {
                match item {
                    Item::Struct(it) => _ = types.structs.insert(it.ident.to_string(), it),
                    Item::Enum(it) => types.alternatives.extend(alternative(&it)),
                    _ => {}
                }
            }
        }
        // What stands for a table that has no type here is no table.
        types.alternatives.retain(|_, table| types.structs.contains_key(table));
        Ok(types)
    }

    fn root(&self, name: &str) -> Result<&ItemStruct> {
        self.structs.get(name).context("no type of the file")
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
            let _ = write!(page, "\n{} {heading}\n\n{text}\n", self.level);
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
        of.fields.iter().filter_map(|field| {
            let name = table_type(&field.ty);
            let own = self.alternatives.get(&name).filter(|_| !is_array(&field.ty));
            let name = own.unwrap_or(&name);
            Some((field, self.structs.get(name)?))
        })
    }

    fn keys(&self, table: &ItemStruct) -> Result<Vec<Key>> {
        let Fields::Named(fields) = &table.fields else { bail!("{} is no table", table.ident) };
        let is_table = |field: &&Field| self.structs.contains_key(&table_type(&field.ty));
        fields.named.iter().filter(|field| !is_table(field)).map(|it| key(table, it)).collect()
    }
}

/// The table that is one of the variants of a value: `scope = "own"`, or `[role.scope]`.
fn alternative(of: &ItemEnum) -> Option<(String, String)> {
    let tables = of.variants.iter().filter_map(|variant| match &variant.fields {
        Fields::Unnamed(one) => one.unnamed.first().map(|field| table_type(&field.ty)),
        _ => None,
    });
    Some((of.ident.to_string(), tables.last()?))
}

fn key(table: &ItemStruct, field: &Field) -> Result<Key> {
    let (text, default) = comment(&field.attrs);
    let (name, at) = (name(field), format!("{}.{}", table.ident, name(field)));
    if text.is_empty() {
        bail!("{at} has no comment");
    }
    let reader = serde_value(&field.attrs, "deserialize_with");
    let plain = plain(&field.ty);
    let inner = plain.strip_prefix("Option<").and_then(|rest| rest.strip_suffix('>'));
    let (ty, is_optional) = (inner.unwrap_or(&plain), inner.is_some());
    let kind = match (reader.as_deref(), ty) {
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
        (_, "SpiffeNames" | "OnRevoked" | "Profile") => "word",
        (_, "u64" | "u32") => "whole number",
        (_, "f64") => "number",
        (_, "bool") => "`true` or `false`",
        (_, "Arguments" | "OnFailure") => "text",
        (_, "(u32,u32)") => "[first, last]",
        (_, "BTreeMap<String,Ulimit>") => "table",
        (_, "BTreeMap<String,QuotaTable>") => "table of tables",
        (_, "BTreeMap<String,String>") => "table of texts",
        (_, "Vec<Arg>") => "list of texts",
        (_, "Scope") => "word, or table",
        (_, "Table") => "table, keys of `[limits.default]`",
        (_, "QuotaTable") => "table, keys of `[quotas.default]`",
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

/// The type of a table, of each table of an array of tables, or of one that may be absent.
fn table_type(ty: &Type) -> String {
    let plain = plain(ty);
    let inner = ["Vec<", "Option<"].iter().find_map(|outer| plain.strip_prefix(outer));
    let inner = inner.and_then(|rest| rest.strip_suffix('>'));
    inner.map(str::to_owned).unwrap_or(plain)
}

fn is_array(ty: &Type) -> bool {
    plain(ty).starts_with("Vec<")
}

/// A type without blanks and without the place where its value stands: `Option<u64>`.
fn plain(ty: &Type) -> String {
    let plain = quote::quote!(#ty).to_string().replace(' ', "");
    match plain.split_once("Spanned<").map(|(before, rest)| (before, rest.rsplit_once('>'))) {
        Some((before, Some((inner, "")))) => format!("{before}{inner}"),
        _ => plain,
    }
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
