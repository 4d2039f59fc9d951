//! Secrets: from files, or from the environment.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use protocol::keys::MasterSecret;
use zeroize::Zeroizing;

use super::BearerTokens;
use super::section::Section;

const TOKEN: &str = "BOLTGATE_TOKEN";
const TOKEN_PREVIOUS: &str = "BOLTGATE_TOKEN_PREVIOUS";
const MASTER_KEY: &str = "BOLTGATE_MASTER_KEY";
const DATABASE_PASSWORD: &str = "BOLTGATE_POSTGRES_PASSWORD";

/// Two, so that the token can be changed while filters still carry the old one.
const MOST_TOKENS: usize = 2;
const TOKEN_LENGTHS: std::ops::RangeInclusive<usize> = 16..=512;

/// Tokens, and the files that they are from.
pub(super) fn bearer_tokens(
    root: &mut Section,
    environment: &impl Fn(&str) -> Option<String>,
    warnings: &mut Vec<String>,
) -> (Option<BearerTokens>, Vec<PathBuf>) {
    let files = root.texts("tokenFiles").into_iter().map(PathBuf::from);
    let mut files: Vec<PathBuf> = files.collect();
    warnings.extend(exposed("tokenFiles", files.iter().map(PathBuf::as_path)));
    if files.len() > MOST_TOKENS {
        root.problem(
            "tokenFiles",
            format!("at most {MOST_TOKENS} tokens are valid at once"),
        );
    }
    let variables = [TOKEN, TOKEN_PREVIOUS].into_iter().filter_map(environment);
    let tokens: Vec<String> = variables.filter(|token| !token.is_empty()).collect();
    let read = if !tokens.is_empty() {
        files.clear();
        match tokens.iter().all(|token| is_token(token)) {
            true => Ok(BearerTokens::new(tokens)),
            false => Err(vec![format!("{TOKEN}: {}", form_of_token())]),
        }
    } else if files.is_empty() {
        Err(vec![format!(
            "one or two files are required, or {TOKEN} in the environment"
        )])
    } else {
        read_tokens(&files)
    };
    match read {
        Ok(tokens) => (Some(tokens), files),
        Err(problems) => {
            for problem in problems {
                root.problem("tokenFiles", problem);
            }
            (None, files)
        }
    }
}

/// Reads token files: one bearer token in each.
///
/// # Errors
/// Everything that is wrong with them; never what is in them.
pub fn read_tokens(files: &[PathBuf]) -> Result<BearerTokens, Vec<String>> {
    let (mut tokens, mut problems) = (Vec::new(), Vec::new());
    for file in files {
        match std::fs::read_to_string(file).map(Zeroizing::new) {
            Ok(text) if is_token(text.trim()) => tokens.push(text.trim().to_owned()),
            Ok(_) => problems.push(format!("{}: {}", file.display(), form_of_token())),
            Err(error) => problems.push(format!("{}: {error}", file.display())),
        }
    }
    if problems.is_empty() {
        Ok(BearerTokens::new(tokens))
    } else {
        Err(problems)
    }
}

fn form_of_token() -> String {
    let (least, most) = (TOKEN_LENGTHS.start(), TOKEN_LENGTHS.end());
    format!("a token has {least} to {most} printable characters, no spaces")
}

fn is_token(token: &str) -> bool {
    TOKEN_LENGTHS.contains(&token.len()) && token.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Keys, oldest first, and the name of their file.
pub(super) fn master_keys(
    root: &mut Section,
    environment: &impl Fn(&str) -> Option<String>,
    warnings: &mut Vec<String>,
) -> (Vec<MasterSecret>, Option<PathBuf>) {
    let file = root.text("masterKeyFile").map(PathBuf::from);
    warnings.extend(exposed("masterKeyFile", file.as_deref()));
    let variable = environment(MASTER_KEY)
        .filter(|text| !text.is_empty())
        .map(Zeroizing::new);
    let keys = match (variable, &file) {
        (Some(text), _) => parse_master_keys(&text),
        (None, Some(file)) => read_master_keys(file),
        (None, None) => Ok(Vec::new()),
    };
    let keys = keys.unwrap_or_else(|problem| {
        root.problem("masterKeyFile", problem);
        Vec::new()
    });
    (keys, file)
}

/// Reads a master key file: one key of 64 hexadecimal digits per line, oldest first.
///
/// # Errors
/// What is wrong with it; never what is in it.
pub fn read_master_keys(file: &Path) -> Result<Vec<MasterSecret>, String> {
    let text =
        std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
    parse_master_keys(&Zeroizing::new(text))
}

fn parse_master_keys(text: &str) -> Result<Vec<MasterSecret>, String> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let keys: Result<Vec<MasterSecret>, _> = lines.map(str::parse).collect();
    match keys {
        Ok(keys) if !keys.is_empty() => Ok(keys),
        _ => Err("must hold one key of 64 hexadecimal digits per line".to_owned()),
    }
}

/// A password that is read anew each time it is needed, if it comes from a file. Never shown.
#[derive(Clone)]
pub struct Password(Source);

#[derive(Clone)]
enum Source {
    /// There is none.
    None,
    /// From the environment.
    Given(Zeroizing<String>),
    /// From a file, with what it held last.
    File(PathBuf, Arc<Mutex<Zeroizing<String>>>),
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password")
    }
}

impl Password {
    /// No password, for a database that asks for none.
    pub const NONE: Self = Self(Source::None);

    /// What it is now. A file that cannot be read changes nothing.
    #[must_use]
    pub fn read(&self) -> Option<Zeroizing<String>> {
        match &self.0 {
            Source::None => None,
            Source::Given(password) => Some(password.clone()),
            Source::File(file, last) => {
                let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
                match read_password(file) {
                    Ok(password) => *last = password,
                    Err(error) => tracing::error!(%error, "the password cannot be read again"),
                }
                Some(last.clone())
            }
        }
    }
}

/// The database's password: from the environment, or from `passwordFile`.
pub(super) fn database_password(
    section: &mut Section,
    environment: &impl Fn(&str) -> Option<String>,
    warnings: &mut Vec<String>,
) -> Password {
    let file = section.text("passwordFile").map(PathBuf::from);
    warnings.extend(exposed("ledger.postgres.passwordFile", file.as_deref()));
    let variable = environment(DATABASE_PASSWORD).filter(|text| !text.is_empty());
    match (variable, file) {
        (Some(text), _) => Password(Source::Given(Zeroizing::new(text))),
        (None, None) => Password::NONE,
        (None, Some(file)) => match read_password(&file) {
            Ok(password) => Password(Source::File(file, Arc::new(Mutex::new(password)))),
            Err(problem) => {
                section.problem("passwordFile", problem);
                Password::NONE
            }
        },
    }
}

/// The first line.
fn read_password(file: &Path) -> Result<Zeroizing<String>, String> {
    let text = std::fs::read_to_string(file).map(Zeroizing::new);
    let text = text.map_err(|error| format!("{}: {error}", file.display()))?;
    match text.lines().next() {
        Some(line) if !line.is_empty() => Ok(Zeroizing::new(line.to_owned())),
        _ => Err(format!("{}: holds no password", file.display())),
    }
}

/// What is to be said of secret files that everybody on the machine may read.
fn exposed<'a>(
    setting: &'static str,
    files: impl IntoIterator<Item = &'a Path>,
) -> impl Iterator<Item = String> {
    files.into_iter().filter_map(move |file| {
        let mode = mode(file).filter(|mode| mode & 0o004 != 0)?;
        let file = file.display();
        Some(format!(
            "{setting}: {file} has mode {mode:03o}, so everybody on this machine can read it"
        ))
    })
}

#[cfg(unix)]
fn mode(file: &Path) -> Option<u32> {
    use std::os::unix::fs::PermissionsExt as _;
    let found = std::fs::metadata(file).ok()?;
    Some(found.permissions().mode() & 0o777)
}

#[cfg(not(unix))]
fn mode(_: &Path) -> Option<u32> {
    None
}
