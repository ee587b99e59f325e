"""Tables, repositories, migrations, and the one claiming transaction. Rows never leave this package."""
