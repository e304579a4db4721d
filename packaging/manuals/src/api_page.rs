//! `docs/API.md`: the contract, from the comments in `proto/`.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result};
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorProto,
    ServiceDescriptorProto,
};

/// The file of the contract below `proto/`.
const CONTRACT: &str = "job/v1/job.proto";
/// Field numbers of descriptor.proto, of which the paths of comments consist.
const MESSAGE: i32 = 4;
const ENUM: i32 = 5;
const SERVICE: i32 = 6;
const IN_MESSAGE: (i32, i32, i32) = (2, 3, 4);
const IN_OTHERS: i32 = 2;

/// The page for the contract in the directory `proto`.
///
/// # Errors
/// A contract that does not parse.
pub(crate) fn render(proto: &Path) -> Result<String> {
    let mut compiler = protox::Compiler::new([proto]).context("cannot read proto/")?;
    compiler.include_source_info(true).open_file(CONTRACT).context("cannot parse the contract")?;
    let files = compiler.file_descriptor_set().file;
    let file = files.iter().find(|file| file.name() == CONTRACT).context("no contract")?;
    Ok(Page::new(file).render())
}

struct Page<'a> {
    file: &'a FileDescriptorProto,
    comments: HashMap<&'a [i32], &'a str>,
    text: String,
}

impl<'a> Page<'a> {
    fn new(file: &'a FileDescriptorProto) -> Page<'a> {
        let locations = file.source_code_info.iter().flat_map(|info| &info.location);
        let comments = locations
            .filter_map(|it| Some((it.path.as_slice(), it.leading_comments.as_deref()?)))
            .collect();
        Page { file, comments, text: String::new() }
    }

    fn render(mut self) -> String {
        self.text.push_str(
            "# The contract\n\n\
             Made from [`proto/job/v1/job.proto`](../proto/job/v1/job.proto) by `cargo xtask tidy`: change \
             the contract, not this page.\n",
        );
        for (n, service) in self.file.service.iter().enumerate() {
            self.service(service, &[SERVICE, n as i32]);
        }
        for (n, message) in self.file.message_type.iter().enumerate() {
            self.message(message, message.name(), &[MESSAGE, n as i32]);
        }
        for (n, values) in self.file.enum_type.iter().enumerate() {
            self.values(values, values.name(), &[ENUM, n as i32]);
        }
        self.text
    }

    fn service(&mut self, service: &ServiceDescriptorProto, path: &[i32]) {
        self.heading(service.name(), path);
        for (n, method) in service.method.iter().enumerate() {
            let stream = |is: Option<bool>| if is == Some(true) { "stream " } else { "" };
            let signature = format!(
                "{}({}{}) returns ({}{})",
                method.name(),
                stream(method.client_streaming),
                short(method.input_type()),
                stream(method.server_streaming),
                short(method.output_type()),
            );
            let _ = write!(self.text, "\n### {}\n\n`{signature}`\n", method.name());
            self.paragraph(&[path, &[IN_OTHERS, n as i32]].concat());
        }
    }

    fn message(&mut self, message: &DescriptorProto, name: &str, path: &[i32]) {
        self.heading(name, path);
        if !message.field.is_empty() {
            self.text.push_str("\n| field | type | |\n|---|---|---|\n");
        }
        let (fields, nested, enums) = IN_MESSAGE;
        for (n, field) in message.field.iter().enumerate() {
            let said = self.line(&[path, &[fields, n as i32]].concat());
            let kind = kind(field, message);
            let _ = writeln!(self.text, "| `{}` | {kind} | {said} |", field.name());
        }
        for (n, below) in message.nested_type.iter().enumerate() {
            let is_map = below.options.as_ref().is_some_and(|options| options.map_entry());
            if !is_map {
                let name = format!("{name}.{}", below.name());
                self.message(below, &name, &[path, &[nested, n as i32]].concat());
            }
        }
        for (n, values) in message.enum_type.iter().enumerate() {
            let name = format!("{name}.{}", values.name());
            self.values(values, &name, &[path, &[enums, n as i32]].concat());
        }
    }

    fn values(&mut self, values: &EnumDescriptorProto, name: &str, path: &[i32]) {
        self.heading(name, path);
        self.text.push_str("\n| value | number | |\n|---|---|---|\n");
        for (n, value) in values.value.iter().enumerate() {
            let said = self.line(&[path, &[IN_OTHERS, n as i32]].concat());
            let _ = writeln!(self.text, "| `{}` | {} | {said} |", value.name(), value.number());
        }
    }

    fn heading(&mut self, name: &str, path: &[i32]) {
        let _ = write!(self.text, "\n## {name}\n");
        self.paragraph(path);
    }

    fn paragraph(&mut self, path: &[i32]) {
        let comment = self.comments.get(path).copied().unwrap_or_default();
        if !comment.is_empty() {
            self.text.push('\n');
        }
        for line in comment.lines() {
            let _ = writeln!(self.text, "{}", line.trim());
        }
    }

    /// For a cell of a table.
    fn line(&self, path: &[i32]) -> String {
        let comment = self.comments.get(path).copied().unwrap_or_default();
        comment.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
    }
}

/// `.job.v1.Job` as `Job`.
fn short(name: &str) -> &str {
    name.trim_start_matches(".job.v1.").trim_start_matches('.')
}

fn kind(field: &FieldDescriptorProto, message: &DescriptorProto) -> String {
    let entry = message.nested_type.iter().find(|nested| {
        field.type_name().ends_with(&format!("{}.{}", message.name(), nested.name()))
            && nested.options.as_ref().is_some_and(|options| options.map_entry())
    });
    if let Some(entry) = entry {
        let of = |n: usize| entry.field.get(n).map(plain).unwrap_or_default();
        return format!("map of {} to {}", of(0), of(1));
    }
    let plain = plain(field);
    match field.label() {
        Label::Repeated => format!("repeated {plain}"),
        _ if field.proto3_optional() => format!("optional {plain}"),
        _ => plain,
    }
}

fn plain(field: &FieldDescriptorProto) -> String {
    match field.r#type() {
        Type::Message | Type::Enum => short(field.type_name()).to_owned(),
        other => other.as_str_name().trim_start_matches("TYPE_").to_lowercase(),
    }
}
