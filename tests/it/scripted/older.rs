//! older
