//! Checks that the modules of a library crate do not import each other in a circle.
//!
//! A module that only re-exports names (`pub use`) does not depend on their modules: each name is
//! traced to the module that defines it. Code under `#[cfg(test)]` and inside macros is ignored.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use syn::visit::Visit;

use crate::workspace::Member;

/// Reports the circles of all published crates at once.
pub(super) fn check(members: &[Member]) -> Result<()> {
    let mut wrong = Vec::new();
    for member in members.iter().filter(|member| member.published) {
        let source = member.folder.join("src");
        let modules = Modules::read(&source).with_context(|| source.display().to_string())?;
        for circle in circles(&modules.imports()) {
            wrong.push(format!("{}: {}", member.name, circle.join(" → ")));
        }
    }
    if !wrong.is_empty() {
        bail!(
            "these modules import each other in a circle; move what both need into one that imports neither:\n{}",
            wrong.join("\n")
        );
    }
    Ok(())
}

/// A module as the path from the crate's root. The root's path is empty.
type Module = Vec<String>;

/// For each module, the modules that its code names, with one name as an example.
type Imports = BTreeMap<Module, BTreeMap<Module, String>>;

/// The modules of a crate: their definitions, and the names that they import.
#[derive(Default)]
struct Modules(BTreeMap<Module, Scope>);

#[derive(Default)]
struct Scope {
    items: BTreeSet<String>,
    /// Names imported by `use`, with the path of each.
    uses: BTreeMap<String, Vec<String>>,
    /// Modules imported with a glob.
    globs: Vec<Vec<String>>,
    /// Paths in the code, and those of private `use`.
    named: BTreeSet<Vec<String>>,
}

impl Modules {
    fn read(source: &Path) -> Result<Self> {
        let mut modules = Self::default();
        modules.read_file(&source.join("lib.rs"), source, Vec::new())?;
        Ok(modules)
    }

    /// Reads `file`. Its child modules are in `folder`.
    fn read_file(&mut self, file: &Path, folder: &Path, module: Module) -> Result<()> {
        let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
        let parsed = syn::parse_file(&text).with_context(|| file.display().to_string())?;
        self.read_items(&parsed.items, folder, module)
    }

    fn read_items(&mut self, items: &[syn::Item], folder: &Path, module: Module) -> Result<()> {
        let mut scope = Scope::default();
        for item in items.iter().filter(|item| !is_of_tests(item)) {
            scope.take(item);
            let syn::Item::Mod(child) = item else {
                continue;
            };
            let name = child.ident.to_string();
            let (mut path, below) = (module.clone(), folder.join(&name));
            path.push(name.clone());
            match &child.content {
                Some((_, items)) => self.read_items(items, &below, path)?,
                None => {
                    let flat = folder.join(format!("{name}.rs"));
                    let file = if flat.exists() {
                        flat
                    } else {
                        below.join("mod.rs")
                    };
                    self.read_file(&file, &below, path)?;
                }
            }
        }
        self.0.insert(module, scope);
        Ok(())
    }

    fn imports(&self) -> Imports {
        let mut imports = Imports::new();
        for (module, scope) in &self.0 {
            let of_module = imports.entry(module.clone()).or_default();
            for path in &scope.named {
                if let Some(target) = self.defining(module, path, 0)
                    && target != *module
                {
                    let name = path.last().cloned().unwrap_or_default();
                    of_module.entry(target).or_insert(name);
                }
            }
        }
        imports
    }

    /// The module that defines `path` as seen from `module`; `None` if it is no module of this
    /// crate.
    fn defining(&self, module: &Module, path: &[String], depth: usize) -> Option<Module> {
        let (first, rest) = path.split_first()?;
        // Circular re-exports lead nowhere.
        if depth > 32 {
            return None;
        }
        let scope = self.0.get(module)?;
        match first.as_str() {
            "crate" => self.within(&Vec::new(), rest, depth),
            "self" => self.within(module, rest, depth),
            "super" => {
                let (_, parent) = module.split_last()?;
                self.within(&parent.to_vec(), rest, depth)
            }
            _ => {
                if let Some(stands_for) = scope.uses.get(first) {
                    let whole: Vec<String> = stands_for.iter().chain(rest).cloned().collect();
                    return self.defining(module, &whole, depth + 1);
                }
                let child: Module = module.iter().chain([first]).cloned().collect();
                if self.0.contains_key(&child) {
                    return self.within(&child, rest, depth);
                }
                if scope.items.contains(first) {
                    return Some(module.clone());
                }
                let mut globs = scope.globs.iter();
                globs.find_map(|glob| {
                    let whole: Vec<String> = glob.iter().chain(path).cloned().collect();
                    self.defining(module, &whole, depth + 1)
                })
            }
        }
    }

    /// The same for the rest of a path after the name of `module`.
    fn within(&self, module: &Module, rest: &[String], depth: usize) -> Option<Module> {
        match rest {
            [] => self.0.contains_key(module).then(|| module.clone()),
            [first, ..] if first == "super" || first == "self" => {
                self.defining(module, rest, depth + 1)
            }
            _ => {
                let found = self.defining(module, rest, depth + 1);
                // An item that a macro defines belongs to the named module.
                found.or_else(|| self.0.contains_key(module).then(|| module.clone()))
            }
        }
    }
}

impl Scope {
    fn take(&mut self, item: &syn::Item) {
        match item {
            syn::Item::Use(uses) => {
                let is_private = matches!(uses.vis, syn::Visibility::Inherited);
                self.take_use(&uses.tree, Vec::new(), is_private);
            }
            syn::Item::Mod(_) => {}
            _ => {
                self.items.extend(name(item));
                Paths(self).visit_item(item);
            }
        }
    }

    fn take_use(&mut self, tree: &syn::UseTree, mut path: Vec<String>, is_private: bool) {
        let mut bind = |name: String, path: Vec<String>| {
            if is_private {
                self.named.insert(path.clone());
            }
            self.uses.insert(name, path);
        };
        match tree {
            syn::UseTree::Path(of) => {
                path.push(of.ident.to_string());
                self.take_use(&of.tree, path, is_private);
            }
            syn::UseTree::Name(of) if of.ident == "self" => {
                bind(path.last().cloned().unwrap_or_default(), path);
            }
            syn::UseTree::Name(of) => {
                path.push(of.ident.to_string());
                bind(of.ident.to_string(), path);
            }
            syn::UseTree::Rename(of) => {
                path.push(of.ident.to_string());
                bind(of.rename.to_string(), path);
            }
            syn::UseTree::Glob(_) => self.globs.push(path),
            syn::UseTree::Group(of) => {
                for tree in &of.items {
                    self.take_use(tree, path.clone(), is_private);
                }
            }
        }
    }
}

/// Collects the paths of code.
struct Paths<'a>(&'a mut Scope);

impl<'ast> Visit<'ast> for Paths<'_> {
    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments = path.segments.iter();
        let path_of = segments.map(|segment| segment.ident.to_string());
        self.0.named.insert(path_of.collect());
        syn::visit::visit_path(self, path);
    }

    fn visit_visibility(&mut self, _: &'ast syn::Visibility) {}
}

fn name(item: &syn::Item) -> Option<String> {
    let ident = match item {
        syn::Item::Const(item) => &item.ident,
        syn::Item::Enum(item) => &item.ident,
        syn::Item::Fn(item) => &item.sig.ident,
        syn::Item::Static(item) => &item.ident,
        syn::Item::Struct(item) => &item.ident,
        syn::Item::Trait(item) => &item.ident,
        syn::Item::Type(item) => &item.ident,
        syn::Item::Union(item) => &item.ident,
        syn::Item::Macro(item) => item.ident.as_ref()?,
        _ => return None,
    };
    Some(ident.to_string())
}

fn is_of_tests(item: &syn::Item) -> bool {
    let attributes = match item {
        syn::Item::Mod(item) => &item.attrs,
        syn::Item::Use(item) => &item.attrs,
        syn::Item::Fn(item) => &item.attrs,
        syn::Item::Impl(item) => &item.attrs,
        syn::Item::Struct(item) => &item.attrs,
        _ => return false,
    };
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute
                .parse_args::<syn::Ident>()
                .is_ok_and(|only| only == "test")
    })
}

/// The shortest circle through each module that is in one, each circle once, with the names that
/// close it.
fn circles(imports: &Imports) -> Vec<Vec<String>> {
    let (mut found, mut told) = (Vec::new(), BTreeSet::new());
    for module in imports.keys() {
        let Some(circle) = shortest(imports, module) else {
            continue;
        };
        let members: BTreeSet<&Module> = circle.iter().copied().collect();
        if told.insert(members) {
            let mut names: Vec<String> = circle
                .iter()
                .zip(circle.iter().cycle().skip(1))
                .map(|(module, next)| format!("{} ({})", shown(module), imports[*module][*next]))
                .collect();
            names.push(shown(module));
            found.push(names);
        }
    }
    found
}

/// The shortest path from `module` back to itself.
fn shortest<'i>(imports: &'i Imports, module: &'i Module) -> Option<Vec<&'i Module>> {
    let mut ways = vec![vec![module]];
    let mut seen = BTreeSet::new();
    while !ways.is_empty() {
        let mut longer = Vec::new();
        for way in ways {
            let last = way.last()?;
            for next in imports.get(*last).into_iter().flat_map(BTreeMap::keys) {
                if next == module {
                    return Some(way);
                }
                if seen.insert(next) {
                    longer.push(way.iter().copied().chain([next]).collect());
                }
            }
        }
        ways = longer;
    }
    None
}

fn shown(module: &Module) -> String {
    match module.is_empty() {
        true => "lib".to_owned(),
        false => module.join("::"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn modules(files: &[(&str, &str)]) -> Modules {
        let folder = tempfile::tempdir().unwrap();
        for (file, text) in files {
            let path = folder.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        Modules::read(folder.path()).unwrap()
    }

    fn found(files: &[(&str, &str)]) -> Vec<String> {
        let circles = circles(&modules(files).imports());
        circles.iter().map(|circle| circle.join(" → ")).collect()
    }

    #[test]
    fn a_circle_is_found_with_the_names_that_close_it() {
        let files = [
            ("lib.rs", "mod a; mod b; pub use a::A;"),
            ("a.rs", "use crate::b::B; pub struct A(B);"),
            (
                "b.rs",
                "pub struct B; impl B { fn a(&self) -> Option<crate::a::A> { None } }",
            ),
        ];
        assert_eq!(found(&files), ["a (B) → b (A) → a"]);
    }

    #[test]
    fn a_name_is_followed_to_the_module_that_defines_it() {
        // `b` imports `A` from the root, which only re-exports it.
        let files = [
            ("lib.rs", "mod a; mod b; pub use a::A; pub use b::B;"),
            ("a.rs", "pub struct A;"),
            ("b.rs", "use crate::A; pub struct B(A);"),
        ];
        assert!(found(&files).is_empty());
        let circle = [
            files[0],
            ("a.rs", "pub struct A(Option<crate::B>);"),
            files[2],
        ];
        assert_eq!(found(&circle).len(), 1);
    }

    #[test]
    fn a_folder_that_uses_its_files_is_used_by_none_of_them() {
        let facade = [
            ("lib.rs", "mod f;"),
            ("f/mod.rs", "mod one; mod two; pub use one::One;"),
            ("f/one.rs", "pub struct One;"),
            ("f/two.rs", "use super::One; pub struct Two(One);"),
        ];
        assert!(found(&facade).is_empty());
        let back = [
            facade[0],
            (
                "f/mod.rs",
                "mod one; mod two; use one::One; pub struct F(One);",
            ),
            ("f/one.rs", "pub struct One; fn f(_: &super::F) {}"),
            ("f/two.rs", ""),
        ];
        assert_eq!(found(&back).len(), 1);
    }

    #[test]
    fn tests_may_look_anywhere() {
        let files = [
            ("lib.rs", "mod a; mod b;"),
            ("a.rs", "use crate::b::B; pub struct A(B);"),
            (
                "b.rs",
                "pub struct B; #[cfg(test)] mod tests { use crate::a::A; }",
            ),
        ];
        assert!(found(&files).is_empty());
    }
}
