//! The arrows between the module files of a target: from `use`, from paths in code, and from paths
//! among the words of macros and attributes.

use std::collections::{BTreeMap, HashMap, HashSet};

use proc_macro2::{TokenStream, TokenTree};
use syn::parse::Parser;
use syn::punctuated::Punctuated;
use syn::visit::{self, Visit};
use syn::{Attribute, Expr, ItemUse, Stmt, Visibility};

use super::resolve::{Target, resolve};
use super::source::{Source, attributes, is_for_tests, leaves};

/// From which module to which, and the line of the first word that makes it so.
pub(crate) type Edges = BTreeMap<(usize, usize), usize>;

/// Finds all edges. A module has none to itself, and `mod child;` is none.
pub(crate) fn find(source: &Source) -> Edges {
    let mut edges = Edges::new();
    for (module, text) in source.modules.iter().enumerate() {
        let mut visitor = Visitor {
            source,
            module,
            edges: &mut edges,
            imports: HashMap::new(),
            variables: HashSet::new(),
        };
        text.items.iter().for_each(|item| visitor.visit_item(item));
    }
    edges
}

struct Visitor<'a> {
    source: &'a Source,
    module: usize,
    edges: &'a mut Edges,
    /// What `use` inside of functions brings in.
    imports: HashMap<String, Vec<String>>,
    /// The variables of the function at hand: none of them is an item.
    variables: HashSet<String>,
}

impl Visitor<'_> {
    fn add(&mut self, to: usize, line: usize) {
        let from = self.source.modules[self.module].node;
        if from != to {
            let seen = self.edges.entry((from, to)).or_insert(line);
            *seen = line.min(*seen);
        }
    }

    fn path(&mut self, path: &[String], line: usize) {
        let Some((first, rest)) = path.split_first() else { return };
        let imported = self.imports.get(first).map(|import| [import, rest].concat());
        let path = imported.as_deref().unwrap_or(path);
        for target in resolve(self.source, self.module, path) {
            // A module's name alone says nothing: what is taken from it does.
            if let Target::Item(node) = target {
                self.add(node, line);
            }
        }
    }

    fn import(&mut self, import: &ItemUse) {
        if import.leading_colon.is_some() {
            return;
        }
        let is_private = matches!(import.vis, Visibility::Inherited);
        for leaf in leaves(&import.tree) {
            let targets = resolve(self.source, self.module, &leaf.path);
            // A name that stands for a module and a function: which of them is used, the code tells.
            let is_module = targets.iter().any(|target| matches!(target, Target::Module(_)));
            for target in targets {
                let here = self.source.modules[self.module].node;
                match target {
                    // A facade: whoever uses the name has an edge to what is behind it.
                    Target::Item(node) if !is_private && self.source.is_within(node, here) => {}
                    Target::Item(_) if is_module => {}
                    Target::Item(node) => self.add(node, leaf.line),
                    Target::Module(module) => {
                        let globbed = &self.source.modules[module];
                        // Traits of it may be used without their name.
                        if leaf.name.is_none() && is_private && defines_a_trait(globbed) {
                            self.add(globbed.node, leaf.line);
                        }
                    }
                }
            }
        }
    }

    /// The words of a macro: as expressions or statements where they are such, else the paths among them.
    fn tokens(&mut self, tokens: &TokenStream) {
        let expressions = Punctuated::<Expr, syn::Token![,]>::parse_terminated;
        if let Ok(expressions) = expressions.parse2(tokens.clone()) {
            expressions.iter().for_each(|expression| self.visit_expr(expression));
        } else if let Ok(statements) = syn::Block::parse_within.parse2(tokens.clone()) {
            statements.iter().for_each(|statement| self.visit_stmt(statement));
        } else {
            self.words(tokens, false);
        }
    }

    /// Paths among words that have no grammar; text in quotes as well, if `with_text`.
    fn words(&mut self, tokens: &TokenStream, with_text: bool) {
        let mut tokens = tokens.clone().into_iter().peekable();
        while let Some(token) = tokens.next() {
            match token {
                TokenTree::Group(group) => self.words(&group.stream(), with_text),
                TokenTree::Literal(literal) if with_text => {
                    let line = literal.span().start().line;
                    let text = literal.to_string();
                    let Ok(path) = syn::parse_str::<syn::Path>(text.trim_matches('"')) else {
                        continue;
                    };
                    for target in resolve(self.source, self.module, &names(&path)) {
                        let (Target::Item(node) | Target::Module(node)) = target;
                        self.add(self.source.modules[node].node, line);
                    }
                }
                TokenTree::Ident(ident) => {
                    let line = ident.span().start().line;
                    let mut path = vec![ident.to_string()];
                    while let Some(next) = next_name(&mut tokens) {
                        path.push(next);
                    }
                    // A single word in lower case is a variable, an option, a keyword.
                    if path.len() > 1 || path[0].starts_with(char::is_uppercase) {
                        self.path(&path, line);
                    }
                }
                _ => {}
            }
        }
    }
}

/// After a name: `::name`, if that comes next.
fn next_name(
    tokens: &mut std::iter::Peekable<proc_macro2::token_stream::IntoIter>,
) -> Option<String> {
    let mut ahead = tokens.clone();
    let is_colon = |token: Option<TokenTree>| matches!(token, Some(TokenTree::Punct(punct)) if punct.as_char() == ':');
    if !is_colon(ahead.next()) || !is_colon(ahead.next()) {
        return None;
    }
    let Some(TokenTree::Ident(ident)) = ahead.next() else { return None };
    *tokens = ahead;
    Some(ident.to_string())
}

fn defines_a_trait(module: &super::source::Module) -> bool {
    module.items.iter().any(|item| matches!(item, syn::Item::Trait(_)))
}

fn names(path: &syn::Path) -> Vec<String> {
    path.segments.iter().map(|segment| segment.ident.to_string()).collect()
}

impl<'ast> Visit<'ast> for Visitor<'_> {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        if is_for_tests(attributes(item)) {
            return;
        }
        match item {
            syn::Item::Use(import) => self.import(import),
            // A module of its own.
            syn::Item::Mod(_) => {}
            item => visit::visit_item(self, item),
        }
    }

    fn visit_item_fn(&mut self, function: &'ast syn::ItemFn) {
        let outside = self.variables.clone();
        visit::visit_item_fn(self, function);
        self.variables = outside;
    }

    fn visit_impl_item(&mut self, item: &'ast syn::ImplItem) {
        let attributes = match item {
            syn::ImplItem::Const(item) => &item.attrs,
            syn::ImplItem::Fn(item) => &item.attrs,
            syn::ImplItem::Type(item) => &item.attrs,
            syn::ImplItem::Macro(item) => &item.attrs,
            _ => return,
        };
        if !is_for_tests(attributes) {
            let outside = self.variables.clone();
            visit::visit_impl_item(self, item);
            self.variables = outside;
        }
    }

    fn visit_trait_item(&mut self, item: &'ast syn::TraitItem) {
        let outside = self.variables.clone();
        visit::visit_trait_item(self, item);
        self.variables = outside;
    }

    fn visit_field(&mut self, field: &'ast syn::Field) {
        if !is_for_tests(&field.attrs) {
            visit::visit_field(self, field);
        }
    }

    fn visit_stmt(&mut self, statement: &'ast Stmt) {
        let attributes = match statement {
            Stmt::Local(local) => local.attrs.as_slice(),
            Stmt::Macro(invoked) => &invoked.attrs,
            Stmt::Expr(Expr::Block(block), _) => &block.attrs,
            Stmt::Item(syn::Item::Use(import)) => {
                for leaf in leaves(&import.tree) {
                    if let Some(name) = leaf.name {
                        self.imports.insert(name, leaf.path);
                    }
                }
                &[]
            }
            _ => &[],
        };
        if !is_for_tests(attributes) {
            visit::visit_stmt(self, statement);
        }
    }

    fn visit_pat_ident(&mut self, pattern: &'ast syn::PatIdent) {
        self.variables.insert(pattern.ident.to_string());
        visit::visit_pat_ident(self, pattern);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        if path.leading_colon.is_none() {
            let names = names(path);
            let line = path.segments.first().map_or(0, |first| first.ident.span().start().line);
            let is_variable = names.len() == 1 && self.variables.contains(&names[0]);
            if !is_variable {
                self.path(&names, line);
            }
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, invoked: &'ast syn::Macro) {
        self.visit_path(&invoked.path);
        self.tokens(&invoked.tokens);
    }

    fn visit_attribute(&mut self, attribute: &'ast Attribute) {
        let judged = ["doc", "cfg", "allow", "expect", "deprecated", "must_use"];
        if judged.iter().any(|name| attribute.path().is_ident(name)) {
            return;
        }
        if let syn::Meta::List(list) = &attribute.meta {
            self.words(&list.tokens, attribute.path().is_ident("serde"));
        }
    }

    // `pub(in crate::room)` uses nothing of that room.
    fn visit_vis_restricted(&mut self, _: &'ast syn::VisRestricted) {}
}
