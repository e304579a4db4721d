//! Reads one target: follows `mod` from its root file and keeps what each module defines and imports.
//!
//! What only tests see is left out: items and files under `#[cfg(test)]`.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use proc_macro2::{TokenStream, TokenTree};
use syn::{Attribute, Item, UseTree};

/// What a name stands for in a module.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Def {
    /// Something that the module itself defines.
    Item,
    /// A child module, by its index.
    Module(usize),
    /// A `use` of this path.
    Import(Vec<String>),
}

/// A module, in a file of its own or inline.
pub(crate) struct Module {
    /// The names from the root to here; empty for the root.
    pub(crate) path: Vec<String>,
    pub(crate) parent: Option<usize>,
    /// The module whose file this one is written in: itself, unless it is inline.
    pub(crate) node: usize,
    pub(crate) file: PathBuf,
    /// A name may stand for a module and a function at once.
    pub(crate) names: HashMap<String, Vec<Def>>,
    /// The paths of `use path::*`.
    pub(crate) globs: Vec<Vec<String>>,
    /// The items, without those of tests.
    pub(crate) items: Vec<Item>,
}

/// All modules of one target; the root is the first.
#[derive(Default)]
pub(crate) struct Source {
    pub(crate) modules: Vec<Module>,
}

impl Source {
    /// Reads the target with this root file.
    pub(crate) fn read(root: &Path) -> Result<Self> {
        let mut source = Self::default();
        let directory = root.parent().unwrap_or(Path::new("")).to_owned();
        source.read_file(root, Vec::new(), None, &directory)?;
        Ok(source)
    }

    /// Whether the first module is below the second, or the same.
    pub(crate) fn is_within(&self, module: usize, ancestor: usize) -> bool {
        self.modules[module].path.starts_with(&self.modules[ancestor].path)
    }

    /// `directory` is where the files of child modules are.
    fn read_file(
        &mut self,
        file: &Path,
        path: Vec<String>,
        parent: Option<usize>,
        directory: &Path,
    ) -> Result<usize> {
        let text =
            fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        let parsed = syn::parse_file(&text).map_err(|error| {
            let line = error.span().start().line;
            anyhow::anyhow!("{}:{line}: cannot parse: {error}", file.display())
        })?;
        let node = self.modules.len();
        self.add(parsed.items, path, parent, node, file, directory)
    }

    fn add(
        &mut self,
        items: Vec<Item>,
        path: Vec<String>,
        parent: Option<usize>,
        node: usize,
        file: &Path,
        directory: &Path,
    ) -> Result<usize> {
        let index = self.modules.len();
        let file = file.to_owned();
        let names = HashMap::new();
        let globs = Vec::new();
        let items: Vec<Item> =
            items.into_iter().filter(|item| !is_for_tests(attributes(item))).collect();
        self.modules.push(Module { path, parent, node, file, names, globs, items: Vec::new() });
        for item in &items {
            self.define(index, item, directory)?;
        }
        self.modules[index].items = items;
        Ok(index)
    }

    fn define(&mut self, module: usize, item: &Item, directory: &Path) -> Result<()> {
        match item {
            Item::Mod(child) => {
                let name = child.ident.to_string();
                let below = self.add_child(module, child, &name, directory)?;
                self.name(module, name, Def::Module(below));
            }
            Item::Use(import) if import.leading_colon.is_none() => {
                self.import(module, &import.tree);
            }
            Item::Macro(invoked) => {
                let names = match &invoked.ident {
                    Some(ident) => vec![ident.to_string()],
                    None => defined_by(invoked.mac.tokens.clone()),
                };
                names.into_iter().for_each(|name| self.name(module, name, Def::Item));
            }
            item => {
                if let Some(name) = name_of(item) {
                    self.name(module, name, Def::Item);
                }
            }
        }
        Ok(())
    }

    fn add_child(
        &mut self,
        parent: usize,
        child: &syn::ItemMod,
        name: &str,
        directory: &Path,
    ) -> Result<usize> {
        let mut path = self.modules[parent].path.clone();
        path.push(name.to_owned());
        let below = directory.join(name);
        if let Some((_, items)) = &child.content {
            let Module { node, file, .. } = &self.modules[parent];
            let (node, file) = (*node, file.clone());
            return self.add(items.clone(), path, Some(parent), node, &file, &below);
        }
        let mut files = vec![directory.join(format!("{name}.rs")), below.join("mod.rs")];
        if let Some(given) = path_attribute(&child.attrs) {
            let beside = self.modules[parent].file.parent().unwrap_or(Path::new("")).to_owned();
            files = vec![beside.join(given)];
        }
        let Some(file) = files.iter().find(|file| file.exists()) else {
            bail!("{}: no file for `mod {name}`", self.modules[parent].file.display());
        };
        self.read_file(file, path, Some(parent), &below)
    }

    fn import(&mut self, module: usize, tree: &UseTree) {
        for leaf in leaves(tree) {
            match leaf.name {
                Some(name) => self.name(module, name, Def::Import(leaf.path)),
                None => self.modules[module].globs.push(leaf.path),
            }
        }
    }

    fn name(&mut self, module: usize, name: String, def: Def) {
        self.modules[module].names.entry(name).or_default().push(def);
    }
}

/// One name that a `use` brings in.
#[derive(Debug)]
pub(crate) struct Leaf {
    pub(crate) path: Vec<String>,
    /// What it is called here; none for `*`.
    pub(crate) name: Option<String>,
    pub(crate) line: usize,
}

/// Flattens a `use` tree.
pub(crate) fn leaves(tree: &UseTree) -> Vec<Leaf> {
    let mut found = Vec::new();
    flatten(tree, &mut Vec::new(), &mut found);
    found
}

fn flatten(tree: &UseTree, above: &mut Vec<String>, found: &mut Vec<Leaf>) {
    let mut add = |ident: &syn::Ident, renamed: Option<&syn::Ident>| {
        let mut path = above.clone();
        if ident != "self" || path.is_empty() {
            path.push(ident.to_string());
        }
        let name = renamed.map(ToString::to_string).or_else(|| path.last().cloned());
        found.push(Leaf { path, name, line: ident.span().start().line });
    };
    match tree {
        UseTree::Path(path) => {
            above.push(path.ident.to_string());
            flatten(&path.tree, above, found);
            above.pop();
        }
        UseTree::Name(name) => add(&name.ident, None),
        UseTree::Rename(rename) => add(&rename.ident, Some(&rename.rename)),
        UseTree::Glob(glob) => {
            let line = glob.star_token.spans[0].start().line;
            found.push(Leaf { path: above.clone(), name: None, line });
        }
        UseTree::Group(group) => {
            group.items.iter().for_each(|tree| flatten(tree, above, found));
        }
    }
}

/// Whether an attribute says that the item exists in tests alone.
pub(crate) fn is_for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute.meta.require_list().is_ok_and(|list| names_test(list.tokens.clone()))
    })
}

/// Finds the word `test`, but not in a `not(...)`.
fn names_test(tokens: TokenStream) -> bool {
    let mut after_not = false;
    for token in tokens {
        match &token {
            TokenTree::Ident(ident) if ident == "test" => return true,
            TokenTree::Group(group) if !after_not && names_test(group.stream()) => return true,
            _ => {}
        }
        after_not = matches!(&token, TokenTree::Ident(ident) if ident == "not");
    }
    false
}

fn path_attribute(attributes: &[Attribute]) -> Option<String> {
    let attribute = attributes.iter().find(|attribute| attribute.path().is_ident("path"))?;
    match &attribute.meta.require_name_value().ok()?.value {
        syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(text), .. }) => Some(text.value()),
        _ => None,
    }
}

/// The names that a macro invoked in place of items seems to define: `struct Name`, `fn name` ...
fn defined_by(tokens: TokenStream) -> Vec<String> {
    const BEFORE_A_NAME: [&str; 8] =
        ["const", "enum", "fn", "static", "struct", "trait", "type", "union"];
    let mut names = Vec::new();
    let mut is_next = false;
    for token in tokens {
        if let TokenTree::Group(group) = &token {
            names.extend(defined_by(group.stream()));
        }
        let TokenTree::Ident(ident) = token else { continue };
        let word = ident.to_string();
        if is_next {
            names.push(word.clone());
        }
        is_next = BEFORE_A_NAME.contains(&word.as_str());
    }
    names
}

fn name_of(item: &Item) -> Option<String> {
    Some(match item {
        Item::Const(item) => item.ident.to_string(),
        Item::Enum(item) => item.ident.to_string(),
        Item::Fn(item) => item.sig.ident.to_string(),
        Item::Static(item) => item.ident.to_string(),
        Item::Struct(item) => item.ident.to_string(),
        Item::Trait(item) => item.ident.to_string(),
        Item::TraitAlias(item) => item.ident.to_string(),
        Item::Type(item) => item.ident.to_string(),
        Item::Union(item) => item.ident.to_string(),
        _ => return None,
    })
}

pub(crate) fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::ExternCrate(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::ForeignMod(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::TraitAlias(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Union(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}
