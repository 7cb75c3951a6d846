//! What a DDL event's statement does to captured tables.
//!
//! TRUNCATE, DROP and RENAME reach a client as text only. Everything else (ALTER's column changes, CREATE) is answered by the next FIELD
//! event and is not read here.

/// What a statement does to tables, by their bare names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ddl {
    Truncate(String),
    Drop(Vec<String>),
    /// From and to.
    Rename(Vec<(String, String)>),
    /// Nothing that ends or empties a table.
    Other,
}

impl Ddl {
    pub(crate) fn parse(statement: &str) -> Self {
        let tokens = tokens(statement);
        let mut words = Words { tokens: &tokens };
        if words.take("truncate") {
            words.take("table");
            return words.table().map_or(Self::Other, Self::Truncate);
        }
        if words.take("drop") {
            words.take("temporary");
            if !(words.take("table") || words.take("tables")) {
                return Self::Other;
            }
            if words.take("if") {
                words.take("exists");
            }
            let mut tables = Vec::new();
            while let Some(table) = words.table() {
                tables.push(table);
                if !words.symbol(',') {
                    break;
                }
            }
            return Self::Drop(tables);
        }
        if words.take("rename") {
            if !(words.take("table") || words.take("tables")) {
                return Self::Other;
            }
            let mut renames = Vec::new();
            while let Some(from) = words.table() {
                words.take("to");
                let Some(to) = words.table() else { break };
                renames.push((from, to));
                if !words.symbol(',') {
                    break;
                }
            }
            return Self::Rename(renames);
        }
        if words.take("alter") {
            words.take("online");
            words.take("ignore");
            if !words.take("table") {
                return Self::Other;
            }
            let Some(from) = words.table() else { return Self::Other };
            // A RENAME of the table itself is one of the comma-separated alterations: it is followed by TO, AS, = or a name, while
            // RENAME COLUMN, INDEX and KEY concern parts of the table.
            let mut start_of_alteration = true;
            while let Some((token, rest)) = words.tokens.split_first() {
                words.tokens = rest;
                if start_of_alteration && token.is_word("rename") {
                    if words.take("column") || words.take("index") || words.take("key") {
                        start_of_alteration = false;
                        continue;
                    }
                    if !words.take("to") && !words.take("as") {
                        words.symbol('=');
                    }
                    if let Some(to) = words.table() {
                        return Self::Rename(vec![(from, to)]);
                    }
                }
                start_of_alteration = *token == Token::Symbol(',');
            }
        }
        Self::Other
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Word(String),
    Quoted(String),
    Symbol(char),
}

impl Token {
    fn is_word(&self, word: &str) -> bool {
        matches!(self, Self::Word(found) if found.eq_ignore_ascii_case(word))
    }
}

struct Words<'a> {
    tokens: &'a [Token],
}

impl Words<'_> {
    fn take(&mut self, word: &str) -> bool {
        match self.tokens.split_first() {
            Some((first, rest)) if first.is_word(word) => {
                self.tokens = rest;
                true
            }
            _ => false,
        }
    }

    fn symbol(&mut self, symbol: char) -> bool {
        match self.tokens.split_first() {
            Some((Token::Symbol(found), rest)) if *found == symbol => {
                self.tokens = rest;
                true
            }
            _ => false,
        }
    }

    fn name(&mut self) -> Option<String> {
        match self.tokens.split_first() {
            Some((Token::Word(name) | Token::Quoted(name), rest)) => {
                self.tokens = rest;
                Some(name.clone())
            }
            _ => None,
        }
    }

    /// A table's own name; what stands before a dot is the database, which vttablet has already compared.
    fn table(&mut self) -> Option<String> {
        let mut name = self.name()?;
        while self.symbol('.') {
            name = self.name()?;
        }
        Some(name)
    }
}

fn tokens(statement: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut rest = statement;
    while let Some(first) = rest.chars().next() {
        if first.is_whitespace() {
            rest = rest.trim_start();
        } else if let Some(inner) = rest.strip_prefix("/*!") {
            // A version comment holds SQL that the server executes.
            rest = inner.trim_start_matches(|c: char| c.is_ascii_digit());
        } else if let Some(end_of_version_comment) = rest.strip_prefix("*/") {
            rest = end_of_version_comment;
        } else if let Some(inner) = rest.strip_prefix("/*") {
            rest = inner.find("*/").map_or("", |end| &inner[end + 2..]);
        } else if rest.starts_with('#') || rest.starts_with("-- ") {
            rest = rest.find('\n').map_or("", |end| &rest[end..]);
        } else if matches!(first, '`' | '\'' | '"') {
            let (text, after) = quoted(&rest[1..], first);
            tokens.push(Token::Quoted(text));
            rest = after;
        } else if first.is_alphanumeric() || matches!(first, '_' | '$') || !first.is_ascii() {
            let end = rest.find(|c: char| c.is_ascii() && !c.is_ascii_alphanumeric() && c != '_' && c != '$').unwrap_or(rest.len());
            tokens.push(Token::Word(rest[..end].to_owned()));
            rest = &rest[end..];
        } else {
            tokens.push(Token::Symbol(first));
            rest = &rest[first.len_utf8()..];
        }
    }
    tokens
}

/// Reads up to the closing quote, which is doubled inside; strings also know the backslash.
fn quoted(text: &str, quote: char) -> (String, &str) {
    let mut out = String::new();
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        if c == '\\' && quote != '`' {
            out.extend(chars.next().map(|(_, escaped)| escaped));
        } else if c != quote {
            out.push(c);
        } else if matches!(chars.peek(), Some((_, next)) if *next == quote) {
            out.push(quote);
            chars.next();
        } else {
            return (out, &text[at + quote.len_utf8()..]);
        }
    }
    (out, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drop(tables: &[&str]) -> Ddl {
        Ddl::Drop(tables.iter().map(|&table| table.to_owned()).collect())
    }

    fn rename(pairs: &[(&str, &str)]) -> Ddl {
        Ddl::Rename(pairs.iter().map(|&(from, to)| (from.to_owned(), to.to_owned())).collect())
    }

    #[test]
    fn statements_that_end_or_empty_a_table_are_recognised() {
        assert_eq!(Ddl::parse("truncate table tc2"), Ddl::Truncate("tc2".into()));
        assert_eq!(Ddl::parse("TRUNCATE `vt_ks`.`or``der`"), Ddl::Truncate("or`der".into()));
        assert_eq!(Ddl::parse("/* app */ truncate /*!50000 table */ t"), Ddl::Truncate("t".into()));
        assert_eq!(Ddl::parse("DROP TABLE `a` /* generated by server */"), drop(&["a"]));
        assert_eq!(Ddl::parse("drop table if exists a, ks.b , `c,d`"), drop(&["a", "b", "c,d"]));
        assert_eq!(Ddl::parse("rename table tc to tc2"), rename(&[("tc", "tc2")]));
        assert_eq!(Ddl::parse("RENAME TABLE a TO b, `c` TO `ks`.`d`"), rename(&[("a", "b"), ("c", "d")]));
        assert_eq!(Ddl::parse("alter table a rename to b"), rename(&[("a", "b")]));
        assert_eq!(Ddl::parse("alter table a add column x int, rename as `b`"), rename(&[("a", "b")]));
        assert_eq!(Ddl::parse("ALTER TABLE a RENAME b"), rename(&[("a", "b")]));
    }

    #[test]
    fn other_statements_are_left_to_the_next_field_event() {
        for statement in [
            "",
            "alter table a rename column b to c",
            "alter table a rename index b to c, rename key d to e",
            "alter table a add column `rename` int, comment 'rename to b'",
            "create table truncate_me (id int)",
            "drop index i on t",
            "drop view v",
            "drop database d",
            "rename user a to b",
            "insert into t values ('truncate table t')",
            "-- truncate table t\nalter table t add x int",
            "'unclosed",
        ] {
            assert_eq!(Ddl::parse(statement), Ddl::Other, "{statement}");
        }
    }
}
