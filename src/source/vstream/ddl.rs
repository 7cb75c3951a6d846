//! What a DDL event's statement does to captured tables.
//!
//! TRUNCATE, DROP and RENAME reach a client as text only. What ALTER does to columns shows in the next FIELD event as well; its text tells
//! which change a column's new name stands for, and whether a FIELD event shows it too early.

/// What a statement does to tables, by their bare names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ddl {
    Truncate(String),
    /// A table that is not there. With IF NOT EXISTS, which the server also logs where it had no effect, that is not known.
    Create(String),
    Drop(Vec<String>),
    /// From and to.
    Rename(Vec<(String, String)>),
    /// What is done to a table's columns and to its key; that may be nothing.
    Alter(String, Vec<Alteration>),
    /// Nothing that ends or empties a table.
    Other,
}

/// One part of an ALTER TABLE.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Alteration {
    /// `has_value` unless the rows that are there get NULL.
    Add {
        column: String,
        place: Place,
        has_value: bool,
    },
    Drop(String),
    Rename {
        from: String,
        to: String,
        place: Place,
    },
    /// The definition or the place of a column.
    Modify {
        column: String,
        place: Place,
        definition: Definition,
    },
    /// The default of a column is another one, or none.
    Default(String),
    /// All text is in another character set.
    Convert,
    /// Rows come or go that nothing else tells of: with a partition or a tablespace; the table that a partition was exchanged with.
    Rows {
        with: Option<String>,
    },
    /// The primary key becomes these columns; none if it is dropped.
    Key(Vec<String>),
}

/// How a statement defines a column: its type, and what stands behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Definition(Vec<Token>);

impl Definition {
    #[cfg(test)]
    pub(crate) fn of(text: &str) -> Self {
        Self(tokens(text))
    }

    /// Whether its type begins with one of these words.
    pub(crate) fn is_any(&self, types: &[&str]) -> bool {
        Words { tokens: &self.0 }.is_any(types)
    }

    /// Whether it gives a column that is new anything but NULL in the rows that are there.
    pub(crate) fn has_value(&self) -> bool {
        Words { tokens: &self.0 }.has_value()
    }

    /// Whether the column is computed from others.
    pub(crate) fn is_generated(&self) -> bool {
        self.0.windows(2).any(|pair| matches!(pair, [one, Token::Symbol('(')] if one.is_word("as")))
    }

    /// Whether it names a character set or a collation.
    pub(crate) fn names_charset(&self) -> bool {
        const WORDS: [&str; 8] = ["character", "charset", "collate", "ascii", "unicode", "binary", "national", "nvarchar"];
        self.0.iter().any(|token| WORDS.iter().any(|word| token.is_word(word)))
    }

    /// Whether it declares this type (`information_schema.columns.column_type`).
    pub(crate) fn declares(&self, column_type: &str) -> bool {
        let of_type = tokens(column_type);
        let same = |(one, other): (&Token, &Token)| match (one, other) {
            (Token::Word(one), other) => other.is_word(one),
            (one, other) => one == other,
        };
        self.0.len() >= of_type.len() && of_type.iter().zip(&self.0).all(same)
    }
}

/// Where a column is put.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    First,
    After(String),
    /// Where it is; a new one goes to the end.
    Unchanged,
}

impl Alteration {
    /// Whether a partition of the table that is altered takes the place of all rows of this one.
    pub(crate) fn exchanges_with(&self, table: &str) -> bool {
        matches!(self, Self::Rows { with: Some(with) } if with == table)
    }

    /// Whether it changes the columns or their order.
    pub(crate) fn is_of_columns(&self) -> bool {
        match self {
            Self::Add { .. } | Self::Drop(_) | Self::Rename { .. } => true,
            Self::Modify { place, .. } => *place != Place::Unchanged,
            Self::Default(_) | Self::Convert | Self::Rows { .. } | Self::Key(_) => false,
        }
    }
}

impl Ddl {
    pub(crate) fn parse(statement: &str) -> Self {
        let tokens = tokens(statement);
        let mut words = Words { tokens: &tokens };
        if words.take("truncate") {
            words.take("table");
            return words.table().map_or(Self::Other, Self::Truncate);
        }
        if words.take("create") {
            if !words.take("table") || words.take("if") {
                return Self::Other;
            }
            return words.table().map_or(Self::Other, Self::Create);
        }
        if words.take("drop") {
            // Of a temporary table nothing is captured, whatever table it hid.
            if words.take("temporary") || !(words.take("table") || words.take("tables")) {
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
            let alterations = alterations(words.tokens);
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
            return Self::Alter(from, alterations);
        }
        Self::Other
    }
}

/// The parts of an ALTER TABLE that concern columns, rows and the primary key.
fn alterations(tokens: &[Token]) -> Vec<Alteration> {
    let mut depth = 0_usize;
    let parts = tokens.split(|token| {
        match token {
            Token::Symbol('(') => depth += 1,
            Token::Symbol(')') => depth = depth.saturating_sub(1),
            _ => {}
        }
        depth == 0 && *token == Token::Symbol(',')
    });
    let mut found = Vec::new();
    for part in parts {
        alteration(part, &mut found);
    }
    // The key that is dropped first may be added again in the same statement.
    let last_key = found.iter().rposition(|alteration| matches!(alteration, Alteration::Key(_)));
    let mut index = 0;
    found.retain(|alteration| {
        index += 1;
        !matches!(alteration, Alteration::Key(_)) || last_key == Some(index - 1)
    });
    found
}

fn alteration(tokens: &[Token], found: &mut Vec<Alteration>) {
    let mut words = Words { tokens };
    if words.take("add") {
        if !words.take("column") && words.is_any(&["index", "key", "unique", "fulltext", "spatial", "foreign", "check", "partition"]) {
            return;
        }
        if words.take("constraint") && !words.is_any(&["primary", "unique", "foreign", "check"]) {
            words.name();
        }
        if words.take("primary") {
            found.extend(words.list().map(Alteration::Key));
        } else if words.symbol('(') {
            let mut depth = 0_usize;
            for column in words.tokens.split(|token| {
                match token {
                    Token::Symbol('(') => depth += 1,
                    Token::Symbol(')') => depth = depth.saturating_sub(1),
                    _ => {}
                }
                depth == 0 && *token == Token::Symbol(',')
            }) {
                let mut words = Words { tokens: column };
                if let Some(column) = words.name() {
                    found.push(Alteration::Add { column, place: Place::Unchanged, has_value: words.has_value() });
                }
            }
        } else if !words.is_any(&["unique", "foreign", "check"])
            && let Some(column) = words.name()
        {
            found.extend(words.inline_key(&column));
            found.push(Alteration::Add { column, place: words.place(), has_value: words.has_value() });
        }
    } else if words.take("drop") {
        if words.take("primary") {
            found.push(Alteration::Key(Vec::new()));
        } else if words.take("partition") {
            found.push(Alteration::Rows { with: None });
        } else if words.take("column") || !words.is_any(&["index", "key", "foreign", "check", "constraint"]) {
            found.extend(words.name().map(Alteration::Drop));
        }
    } else if words.take("modify") {
        words.take("column");
        if let Some(column) = words.name() {
            found.extend(words.inline_key(&column));
            found.push(words.modification(column));
        }
    } else if words.take("change") {
        words.take("column");
        if let (Some(from), Some(to)) = (words.name(), words.name()) {
            found.extend(words.inline_key(&to));
            found.push(if from.eq_ignore_ascii_case(&to) {
                words.modification(to)
            } else {
                Alteration::Rename { from, to, place: words.place() }
            });
        }
    } else if words.take("alter") {
        // Indexes, checks and constraints have no default.
        words.take("column");
        let column = words.name();
        if (words.take("set") || words.take("drop")) && words.take("default") {
            found.extend(column.map(Alteration::Default));
        }
    } else if words.take("convert") {
        found.push(Alteration::Convert);
    } else if words.take("truncate") || words.take("discard") || words.take("import") {
        found.push(Alteration::Rows { with: None });
    } else if words.take("exchange") {
        let after = words.tokens.iter().position(|token| token.is_word("table")).map_or(&[][..], |at| &words.tokens[at + 1..]);
        found.push(Alteration::Rows { with: Words { tokens: after }.table() });
    } else if words.take("rename") && words.take("column") {
        let from = words.name();
        words.take("to");
        if let (Some(from), Some(to)) = (from, words.name()) {
            found.push(Alteration::Rename { from, to, place: Place::Unchanged });
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Token {
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

    fn is_any(&self, words: &[&str]) -> bool {
        self.tokens.first().is_some_and(|first| words.iter().any(|word| first.is_word(word)))
    }

    /// The names in the next parentheses, without the lengths of their prefixes.
    fn list(&mut self) -> Option<Vec<String>> {
        while !self.symbol('(') {
            self.tokens = self.tokens.get(1..)?;
        }
        let mut names = vec![self.name()?];
        let mut depth = 0_usize;
        while let Some((first, rest)) = self.tokens.split_first() {
            self.tokens = rest;
            match first {
                Token::Symbol('(') => depth += 1,
                Token::Symbol(')') if depth == 0 => break,
                Token::Symbol(')') => depth -= 1,
                Token::Symbol(',') if depth == 0 => names.extend(self.name()),
                _ => {}
            }
        }
        Some(names)
    }

    /// The key that a column's own definition makes it.
    fn inline_key(&self, column: &str) -> Option<Alteration> {
        let is_key = self.tokens.windows(2).any(|pair| matches!(pair, [one, two] if one.is_word("primary") && two.is_word("key")));
        is_key.then(|| Alteration::Key(vec![column.to_owned()]))
    }

    /// Whether a column's definition gives rows that are there anything but NULL.
    fn has_value(&self) -> bool {
        let not_null = |pair: &[Token]| matches!(pair, [one, two] if one.is_word("not") && two.is_word("null"));
        let default = |pair: &[Token]| matches!(pair, [one, two] if one.is_word("default") && !two.is_word("null"));
        self.tokens.windows(2).any(|pair| not_null(pair) || default(pair))
            || self.tokens.iter().any(|token| ["as", "auto_increment", "primary", "serial"].iter().any(|word| token.is_word(word)))
    }

    /// What follows `MODIFY` and the column.
    fn modification(&self, column: String) -> Alteration {
        Alteration::Modify { column, place: self.place(), definition: Definition(self.tokens.to_vec()) }
    }

    /// The place that ends a column's definition.
    fn place(&self) -> Place {
        match self.tokens {
            [.., after, Token::Word(name) | Token::Quoted(name)] if after.is_word("after") => Place::After(name.clone()),
            [.., first] if first.is_word("first") => Place::First,
            _ => Place::Unchanged,
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
        assert_eq!(Ddl::parse("create table `ks`.`a` (id int primary key, b int)"), Ddl::Create("a".into()));
        assert_eq!(Ddl::parse("drop table if exists a, ks.b , `c,d`"), drop(&["a", "b", "c,d"]));
        assert_eq!(Ddl::parse("rename table tc to tc2"), rename(&[("tc", "tc2")]));
        assert_eq!(Ddl::parse("RENAME TABLE a TO b, `c` TO `ks`.`d`"), rename(&[("a", "b"), ("c", "d")]));
        assert_eq!(Ddl::parse("alter table a rename to b"), rename(&[("a", "b")]));
        assert_eq!(Ddl::parse("alter table a add column x int, rename as `b`"), rename(&[("a", "b")]));
        assert_eq!(Ddl::parse("ALTER TABLE a RENAME b"), rename(&[("a", "b")]));
    }

    #[test]
    fn alterations_of_columns_and_of_the_key_are_told_apart() {
        let name = |name: &str| name.to_owned();
        let add = |column: &str, place| Alteration::Add { column: name(column), place, has_value: false };
        let add_filled = |column: &str, place| Alteration::Add { column: name(column), place, has_value: true };
        let modify = |column: &str, place, definition: &str| Alteration::Modify {
            column: name(column),
            place,
            definition: Definition::of(definition),
        };
        let rows = |with: Option<&str>| Alteration::Rows { with: with.map(str::to_owned) };
        let rename = |from: &str, to: &str, place| Alteration::Rename { from: name(from), to: name(to), place };
        let after = |column: &str| Place::After(name(column));
        let cases = [
            ("rename column b to `c`", vec![rename("b", "c", Place::Unchanged)]),
            ("rename index b to c, rename key d to e", vec![]),
            ("add column `rename` int, comment 'rename to b'", vec![add("rename", Place::Unchanged)]),
            ("add c decimal(10,2) not null default '1,2' after `a`", vec![add_filled("c", after("a"))]),
            (
                "add c int default null, add d int default (1), add e int as (a + 1)",
                vec![add("c", Place::Unchanged), add_filled("d", Place::Unchanged), add_filled("e", Place::Unchanged)],
            ),
            (
                "add (c decimal(10,2), d int), add column e int first",
                vec![add("c", Place::Unchanged), add("d", Place::Unchanged), add("e", Place::First)],
            ),
            (
                "add index i (a), add unique key (b), add constraint c check (a > 1), add constraint f foreign key (a) references o (a)",
                vec![],
            ),
            ("add constraint check (a > 1), add constraint unique (b), add constraint foreign key (a) references o (a)", vec![]),
            (
                "drop a, drop column `b`, drop index i, drop foreign key f, drop check c",
                vec![Alteration::Drop(name("a")), Alteration::Drop(name("b"))],
            ),
            (
                "modify column b varchar(20) after id, modify c bigint",
                vec![modify("b", after("id"), "varchar(20) after id"), modify("c", Place::Unchanged, "bigint")],
            ),
            (
                "change a aa varchar(20), change column B b int first",
                vec![rename("a", "aa", Place::Unchanged), modify("b", Place::First, "int first")],
            ),
            ("drop primary key", vec![Alteration::Key(vec![])]),
            ("drop primary key, add primary key (id, `k`(10) desc)", vec![Alteration::Key(vec![name("id"), name("k")])]),
            ("add constraint c primary key using btree (id)", vec![Alteration::Key(vec![name("id")])]),
            ("add n bigint auto_increment primary key first", vec![Alteration::Key(vec![name("n")]), add_filled("n", Place::First)]),
            ("engine=InnoDB, algorithm=copy", vec![]),
            ("alter column a set default 5, alter `b` drop default", vec![Alteration::Default(name("a")), Alteration::Default(name("b"))]),
            ("alter index i invisible, alter check c not enforced, alter column a set invisible", vec![]),
            ("convert to character set latin1, engine=InnoDB", vec![Alteration::Convert]),
            ("drop partition p1, p2", vec![rows(None)]),
            ("truncate partition all", vec![rows(None)]),
            ("exchange partition `table` with table ks.`o` without validation", vec![rows(Some("o"))]),
            ("discard partition p tablespace", vec![rows(None)]),
            ("import tablespace", vec![rows(None)]),
            (
                "add partition (partition p3 values less than (30)), reorganize partition p1 into (partition p2 values less than (3))",
                vec![],
            ),
            ("remove partitioning", vec![]),
        ];
        for (text, expected) in cases {
            assert_eq!(Ddl::parse(&format!("alter table t {text}")), Ddl::Alter(name("t"), expected), "{text}");
        }
        assert_eq!(
            Ddl::parse("-- truncate table t\nALTER TABLE `ks`.`t` add x int"),
            Ddl::Alter(name("t"), vec![add("x", Place::Unchanged)])
        );
    }

    #[test]
    fn a_definition_tells_type_generation_and_character_set() {
        let definition = Definition::of("ENUM('a', 'it''s') CHARACTER SET latin1 NOT NULL");
        assert!(definition.is_any(&["set", "enum"]) && !definition.is_any(&["char"]));
        assert!(definition.names_charset() && !definition.is_generated());
        assert!(definition.declares("enum('a','it''s')"));
        assert!(
            !definition.declares("enum('a')") && !definition.declares("enum('A','it''s')") && !definition.declares("enum('a','it''s','b')")
        );
        assert!(Definition::of("varchar(20) collate utf8mb4_bin").names_charset());
        assert!(!Definition::of("varchar(20) comment 'charset'").names_charset());
        assert!(Definition::of("int generated always as (a * 2) stored").is_generated());
        assert!(Definition::of("int as (a)").is_generated() && !Definition::of("int comment 'as (a)'").is_generated());
    }

    #[test]
    fn other_statements_are_left_to_the_next_field_event() {
        for statement in [
            "",
            "create table if not exists truncate_me (id int)",
            "create temporary table t (id int)",
            "drop temporary table if exists t",
            "create index i on t (a)",
            "drop index i on t",
            "drop view v",
            "drop database d",
            "rename user a to b",
            "insert into t values ('truncate table t')",
            "'unclosed",
        ] {
            assert_eq!(Ddl::parse(statement), Ddl::Other, "{statement}");
        }
    }
}
