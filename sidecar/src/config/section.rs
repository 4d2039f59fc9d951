//! Reading a YAML tree so that every error is found, each with its path.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use serde_yaml_ng::{Mapping, Value};

/// One thing that is wrong, and where.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ConfigError {
    /// Path of the setting, such as `lightning.lnd.endpoint`; empty for the file as a whole.
    pub path: String,
    /// What is wrong.
    pub problem: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            f.write_str(&self.problem)
        } else {
            write!(f, "{}: {}", self.path, self.problem)
        }
    }
}

/// Where all sections of one file put their errors.
#[derive(Clone)]
pub(super) struct Problems {
    errors: Rc<RefCell<Vec<ConfigError>>>,
    looks_at_files: bool,
}

impl Problems {
    pub(super) fn new(looks_at_files: bool) -> Self {
        Self {
            errors: Rc::default(),
            looks_at_files,
        }
    }

    pub(super) fn add(&self, path: &str, problem: impl fmt::Display) {
        let error = ConfigError {
            path: path.to_owned(),
            problem: problem.to_string(),
        };
        self.errors.borrow_mut().push(error);
    }

    pub(super) fn take(&self) -> Vec<ConfigError> {
        self.errors.take()
    }
}

/// One mapping of the file. Keys that nobody asked for are reported by [`Section::finish`].
pub(super) struct Section {
    path: String,
    values: Mapping,
    known: BTreeSet<&'static str>,
    problems: Problems,
}

impl Section {
    pub(super) fn root(value: Value, problems: Problems) -> Self {
        Self::new(String::new(), value, problems)
    }

    fn new(path: String, value: Value, problems: Problems) -> Self {
        let values = match value {
            Value::Mapping(values) => values,
            Value::Null => Mapping::new(),
            other => {
                problems.add(&path, format!("must be a mapping, found {}", kind(&other)));
                Mapping::new()
            }
        };
        Self {
            path,
            values,
            known: BTreeSet::new(),
            problems,
        }
    }

    pub(super) fn path_of(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }

    pub(super) fn problem(&self, key: &str, problem: impl fmt::Display) {
        self.problems.add(&self.path_of(key), problem);
    }

    pub(super) fn value(&mut self, key: &'static str) -> Option<Value> {
        self.known.insert(key);
        self.values.remove(key).filter(|value| !value.is_null())
    }

    /// A section that may be absent.
    pub(super) fn section(&mut self, key: &'static str) -> Option<Self> {
        let path = self.path_of(key);
        let present = self.values.contains_key(key);
        let value = self.value(key);
        // `dev:` with nothing under it is a choice, made with all defaults.
        present.then(|| Self::new(path, value.unwrap_or(Value::Null), self.problems.clone()))
    }

    /// A section of which every setting has a default.
    pub(super) fn section_or_default(&mut self, key: &'static str) -> Self {
        let path = self.path_of(key);
        let value = self.value(key).unwrap_or(Value::Null);
        Self::new(path, value, self.problems.clone())
    }

    pub(super) fn text(&mut self, key: &'static str) -> Option<String> {
        match self.value(key)? {
            Value::String(text) => Some(text),
            Value::Number(number) => Some(number.to_string()),
            other => {
                self.problem(key, format!("must be text, found {}", kind(&other)));
                None
            }
        }
    }

    /// A file that will be read; where that is asked for, one that cannot be is a problem.
    pub(super) fn file(&mut self, key: &'static str) -> Option<PathBuf> {
        let path = PathBuf::from(self.text(key)?);
        if self.problems.looks_at_files
            && let Err(error) = readable(&path)
        {
            self.problem(key, format!("{}: {error}", path.display()));
        }
        Some(path)
    }

    /// Text that `parse` understands.
    pub(super) fn parsed<T, E: fmt::Display>(
        &mut self,
        key: &'static str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        let text = self.text(key)?;
        match parse(&text) {
            Ok(value) => Some(value),
            Err(problem) => {
                self.problem(key, problem);
                None
            }
        }
    }

    /// A whole number from `least` to `most`.
    pub(super) fn number(&mut self, key: &'static str, default: u32, least: u32, most: u32) -> u32 {
        let number = match self.value(key) {
            None => return default,
            Some(Value::Number(number)) => number.as_u64(),
            Some(Value::String(text)) => text.parse().ok(),
            Some(_) => None,
        };
        match number
            .and_then(|n| u32::try_from(n).ok())
            .filter(|n| (least..=most).contains(n))
        {
            Some(number) => number,
            None => {
                self.problem(
                    key,
                    format!("must be a whole number from {least} to {most}"),
                );
                default
            }
        }
    }

    pub(super) fn boolean(&mut self, key: &'static str, default: bool) -> bool {
        match self.value(key) {
            None => default,
            Some(Value::Bool(value)) => value,
            Some(Value::String(text)) if text == "true" => true,
            Some(Value::String(text)) if text == "false" => false,
            Some(_) => {
                self.problem(key, "must be true or false");
                default
            }
        }
    }

    pub(super) fn texts(&mut self, key: &'static str) -> Vec<String> {
        let items = match self.value(key) {
            None => return Vec::new(),
            Some(Value::Sequence(items)) => items,
            // From the environment: separated by commas.
            Some(Value::String(text)) => {
                return text.split(',').map(|item| item.trim().to_owned()).collect();
            }
            Some(other) => {
                self.problem(key, format!("must be a list, found {}", kind(&other)));
                return Vec::new();
            }
        };
        let mut texts = Vec::new();
        for (index, item) in items.into_iter().enumerate() {
            match item {
                Value::String(text) => texts.push(text),
                other => {
                    let path = format!("{}[{index}]", self.path_of(key));
                    self.problems
                        .add(&path, format!("must be text, found {}", kind(&other)));
                }
            }
        }
        texts
    }

    /// Reports what is left.
    pub(super) fn finish(self) {
        for key in self.values.keys() {
            let name = key
                .as_str()
                .map_or_else(|| kind(key).to_owned(), ToOwned::to_owned);
            let known: Vec<&str> = self.known.iter().copied().collect();
            let problem = format!("unknown setting; known here are {}", known.join(", "));
            self.problems.add(&self.path_of(&name), problem);
        }
    }
}

fn readable(path: &Path) -> io::Result<()> {
    let found = File::open(path)?.metadata()?;
    if found.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    Ok(())
}

const fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Sequence(_) => "a list",
        Value::Mapping(_) => "a mapping",
        Value::Tagged(_) => "a tag",
    }
}
