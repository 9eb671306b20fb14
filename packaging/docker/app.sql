-- Run once, when the cluster of docker-compose.yml is created. The password is read here and is on no command line.
\set password `cat /run/keys/app_password`
create role app login password :'password';
create database app owner app;
