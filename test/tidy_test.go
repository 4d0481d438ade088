package test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// Limits that keep the tree readable. They only ever go down: lower them when
// the code allows, and split a file rather than raise them.
const (
	maxFileLines = 500
	maxFuncLines = 70 // about one screen
)

const module = "github.com/headrace/headrace/"

// forbidden[p] lists the packages that code under p must not import; tests may.
// The reasons are in docs/architecture.md, "Who imports whom".
var forbidden = map[string][]string{
	"router":      {"edge", "persistence", "cmd"},
	"edge":        {"persistence", "cmd"},
	"persistence": {"edge", "cmd"},
	"internal":    {"edge", "router", "persistence", "cmd"},
}

func TestTidy(t *testing.T) {
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() && (name == "node_modules" || name == "testdata" || len(name) > 2 && name[0] == '.') {
			return filepath.SkipDir
		}
		if !d.IsDir() && strings.HasSuffix(name, ".go") {
			tidyFile(t, path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func tidyFile(t *testing.T, path string) {
	t.Helper()
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, path, nil, parser.ParseComments)
	if err != nil {
		t.Error(err)
		return
	}
	if n := fset.Position(file.FileEnd).Line; n > maxFileLines {
		t.Errorf("%s: %d lines, limit %d", path, n, maxFileLines)
	}
	if !strings.HasSuffix(path, "_test.go") {
		tidyImports(t, path, file)
	}
	for _, decl := range file.Decls {
		f, ok := decl.(*ast.FuncDecl)
		if !ok {
			continue
		}
		if n := fset.Position(f.End()).Line - fset.Position(f.Pos()).Line + 1; n > maxFuncLines {
			t.Errorf("%s: %s is %d lines, limit %d", fset.Position(f.Pos()), f.Name.Name, n, maxFuncLines)
		}
	}
}

func tidyImports(t *testing.T, path string, file *ast.File) {
	t.Helper()
	top, _, _ := strings.Cut(filepath.ToSlash(strings.TrimPrefix(path, ".."+string(filepath.Separator))), "/")
	for _, imp := range file.Imports {
		name, err := strconv.Unquote(imp.Path.Value)
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		for _, bad := range forbidden[top] {
			if strings.HasPrefix(name+"/", module+bad+"/") {
				t.Errorf("%s: %s must not import %s", path, top, name)
			}
		}
	}
}
